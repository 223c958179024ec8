"""What of an agent runs without rlcore: its programs, their files, and a page that runs them in the browser."""
