"""A cold start of the search: laws first, then structures; pure functions on tensors, nothing of modules or trainers."""
