"""Loggers: where a run's figures go. One file each; the packages of services are imported on use."""

from rlcore.loggers.base import Logger, LoggerChoice

__all__ = ["Logger", "LoggerChoice"]
