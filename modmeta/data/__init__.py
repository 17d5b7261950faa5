"""Trajectories: generation, file formats, validation, and data modules that serve them in batches."""
