"""Trajectories for training, and for a trained model."""
