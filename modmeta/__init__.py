"""Neural relational inference by modular meta-learning (Alet, Weng, Lozano-Pérez, Kaelbling, NeurIPS 2019)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modmeta.api import Forecasts, Model, Relations, fit, load, models
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
