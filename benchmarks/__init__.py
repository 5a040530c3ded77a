"""What the project promises in figures, measured; see README.md."""
