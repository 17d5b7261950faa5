"""Checkpoints: files on disk, loading, checks of untrusted content, upgrades of older formats."""
