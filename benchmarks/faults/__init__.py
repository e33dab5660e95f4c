"""What readers see, and what is left, when the jobs of a night are killed, starved or doubled."""
