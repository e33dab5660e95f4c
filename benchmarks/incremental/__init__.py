"""Renewing a model by what is new, period by period."""
