"""Neural relational inference by modular meta-learning (Alet, Weng, Lozano-Pérez, Kaelbling, NeurIPS 2019)."""

__version__ = "0.1.0"
