"""Checkpoints: what in them is trusted."""
