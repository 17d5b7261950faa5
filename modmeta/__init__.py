"""Neural relational inference by modular meta-learning (Alet, Weng, Lozano-Pérez, Kaelbling, NeurIPS 2019)."""

import os
from typing import TYPE_CHECKING, Any

# Threads that wait for one another keep a core busy: up to 300,000 turns by default, which beside other jobs makes
# small models ten times slower. Alone, 5,000 turns are as fast. OpenMP reads this once, when torch is imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")

if TYPE_CHECKING:
    from modmeta.answers import Forecasts, Relations
    from modmeta.api import Model, fit, load, models
    from modmeta.training.checkpoints.trust import trust

__version__ = "0.1.0"
__all__ = ["Forecasts", "Model", "Relations", "fit", "load", "models", "trust"]


def __getattr__(name: str) -> Any:
    """Imports the Python API on first access, because importing it takes seconds."""
    if name == "trust":
        from modmeta.training.checkpoints.trust import trust

        return trust
    if name in __all__:
        from modmeta import api

        return getattr(api, name)
    raise AttributeError(f"module 'modmeta' has no attribute {name!r}")
