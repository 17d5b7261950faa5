"""A proposal network for compositions: from the set of a task's examples to the modules of its slots."""

import torch
from torch import Tensor, nn

from modmeta.shapes import Float


class SetProposal(nn.Module):
    """Encodes every example, takes the mean over examples, and reads every slot off it (Zaheer et al. 2017).

    Args:
        sizes: number of modules of every slot, S of them.
        inputs: numbers that an example gives, I.
        outputs: numbers that are its value, O.
        hidden: width of all layers.
    """

    def __init__(self, sizes: list[int], inputs: int = 1, outputs: int = 1, hidden: int = 64) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.each = nn.Sequential(
            nn.Linear(inputs + outputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
        )  # fmt: skip
        self.whole = nn.Sequential(
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, len(sizes) * max(sizes))
        )  # fmt: skip

    def forward(self, x: Float[Tensor, "B P I"], y: Float[Tensor, "B P O"]) -> Float[Tensor, "B 1 S K"]:
        """Examples (B, P, I) and values (B, P, O) to logits (B, 1, S, K); those of modules that do not fit are low."""
        read = self.whole(self.each(torch.cat((x, y), -1)).mean(1)).view(len(x), 1, len(self.sizes), -1)
        module = torch.arange(read.shape[-1], device=x.device)
        fits = module < torch.tensor(self.sizes, device=x.device).unsqueeze(1)
        return read.masked_fill(~fits, -1e9)
