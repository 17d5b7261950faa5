"""Loading trajectories for training and for trained models."""
