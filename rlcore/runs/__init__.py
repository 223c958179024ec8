"""Runs on disk, without torch: what each says of itself, its figures, what several say together, pictures."""
