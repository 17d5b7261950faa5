"""Models that come with the package; `python -m benchmarks.pretrained` makes them."""
