"""Rules of games, a file each."""
