"""Edge and node modules, dynamics composed of them, likelihoods and the proposal network."""
