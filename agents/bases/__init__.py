"""What several agents have in common: bases to subclass."""
