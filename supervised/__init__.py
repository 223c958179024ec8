"""Data sets as environments of single-step episodes."""
