"""Comparison rows of the papers: each a LightningModule behind the same data, protocol and record of results."""
