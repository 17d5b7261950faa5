"""Checkpoints: what in them is trusted, and how older ones are read."""
