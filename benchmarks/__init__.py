"""Measurements: each command prints its figures and writes them to ``benchmarks/results``."""
