"""A baseline that repeats the last frame."""

from torch import Tensor

from modmeta.baselines.base import Baseline, Forecast


class Static(Baseline):
    """Forecasts s(t + h) = s(t) (Kipf et al. 2018, section 5.1). Not trained."""

    def forecaster(self, batch: dict[str, Tensor], chance: Tensor | None) -> Forecast:
        return lambda seen, steps: seen[:, :, -1:].expand(-1, -1, steps, -1)
