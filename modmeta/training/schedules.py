"""Learning rates over a run."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau


def warmup_hold_decay(
    optimizer: Optimizer, steps: int, epochs: int, warmup: float = 0.02, decay: float = 0.4
) -> LambdaLR:
    """Rises linearly over the first part of the run, holds, and falls linearly to zero over the last.

    Args:
        optimizer: whose rates are scheduled.
        steps: of the run.
        epochs: of the run; of no consequence here.
        warmup: fraction of the run.
        decay: fraction of the run.
    """

    def factor(step: int) -> float:
        done = step / max(steps, 1)
        rise = min(1.0, (step + 1) / max(warmup * steps, 1))
        return min(rise, max(0.0, 1 - done) / decay if done > 1 - decay else 1.0)

    return LambdaLR(optimizer, factor)


def halve_on_plateau(optimizer: Optimizer, steps: int, epochs: int) -> ReduceLROnPlateau:
    """Halves the rate when the loss of an epoch has not fallen for 1% of the run, with a rest of 5%, as published.

    Args:
        optimizer: whose rates are scheduled.
        steps: of the run; of no consequence here.
        epochs: of the run.
    """
    return ReduceLROnPlateau(
        optimizer, factor=0.5, patience=epochs // 100, cooldown=epochs // 20, threshold=0.0, min_lr=1e-5
    )
