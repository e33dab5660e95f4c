"""Rows and files that are not what was promised, and what the night makes of them."""
