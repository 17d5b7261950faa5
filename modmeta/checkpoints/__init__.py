"""Checkpoints on the disk: formats, and how older ones are read."""
