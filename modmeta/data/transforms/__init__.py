"""Trajectories in, trajectories out: gaps, noise, velocities."""
