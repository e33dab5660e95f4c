"""Random bytes for whatever reads bytes from outside: only our own errors may come of them."""
