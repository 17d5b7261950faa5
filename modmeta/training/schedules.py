"""Learning-rate schedules."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau


def warmup_hold_decay(
    optimizer: Optimizer, steps: int, epochs: int, warmup: float = 0.02, decay: float = 0.4
) -> LambdaLR:
    """Raises the learning rate linearly, holds it, and lowers it linearly to zero.

    Args:
        optimizer: optimiser whose learning rates are scheduled.
        steps: number of steps of the run.
        epochs: number of epochs of the run; unused.
        warmup: fraction of the run over which the rate rises.
        decay: fraction of the run over which the rate falls.
    """

    def factor(step: int) -> float:
        done = step / max(steps, 1)
        rise = min(1.0, (step + 1) / max(warmup * steps, 1))
        return min(rise, max(0.0, 1 - done) / decay if done > 1 - decay else 1.0)

    return LambdaLR(optimizer, factor)


def halve_on_plateau(optimizer: Optimizer, steps: int, epochs: int) -> ReduceLROnPlateau:
    """Halves the learning rate if the training loss has not fallen for 1% of the epochs, as published.

    After each halving the rate stays for at least 5% of the epochs.

    Args:
        optimizer: optimiser whose learning rates are scheduled.
        steps: number of steps of the run; unused.
        epochs: number of epochs of the run.
    """
    return ReduceLROnPlateau(
        optimizer, factor=0.5, patience=epochs // 100, cooldown=epochs // 20, threshold=0.0, min_lr=1e-5
    )
