"""Agents: one file an algorithm."""
