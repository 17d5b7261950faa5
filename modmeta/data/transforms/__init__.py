"""Transforms of trajectories: missing frames, noise, estimated velocities."""
