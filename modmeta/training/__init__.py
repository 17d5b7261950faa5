"""Training: the resumable LightningModule, BounceGrad, runs and resuming, distribution, callbacks, checkpoints."""
