"""Trajectories: simulators, file formats, validation, and the data module that serves them in batches."""
