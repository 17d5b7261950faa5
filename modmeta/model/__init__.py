"""Edge and node modules, the dynamics built of them, likelihoods and the proposal network."""
