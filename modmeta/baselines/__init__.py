"""Baselines of the papers: LightningModules with the same data, protocol and results as BounceGrad."""
