"""Training: modules that resume, BounceGrad, runs, their processes, what surrounds them."""
