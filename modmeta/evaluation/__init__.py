"""The evaluation protocol: label matching and measures."""
