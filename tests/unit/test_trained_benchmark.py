"""The benchmark of whole runs scores what it says, and its page shows all of it."""

import torch
from torch.nn.functional import one_hot

from benchmarks.trained import file_name, page, score

RUN = {
    "world": "heat", "tasks": 300, "seed": 0, "start": "laws", "kinds_given": True, "kinds": 2, "kinds_true": 2,
    "edges_right": 0.98, "confidence": 0.97, "forecast_error": 0.012, "model": "LawDynamics",
    "choices": {"family": "difference", "constants": True}, "seconds": 61.4,
    "hardware": {"threads": 1, "cpu": "a processor"},
}  # fmt: skip


def test_modules_are_matched_on_one_half_and_scored_on_the_other() -> None:
    """Of two modules that stand for one relation, probabilities add up."""
    generator = torch.Generator().manual_seed(0)
    relations = torch.randint(2, (40, 4, 3), generator=generator)
    split = torch.where(relations == 1, 2, torch.randint(2, relations.shape, generator=generator))
    chances = 0.1 + 0.7 * one_hot(split, 3).double()
    right, confidence = score(chances, relations)
    assert right == 1.0
    wanted = torch.where(relations[20:] == 1, 0.8, 0.9).double().mean()
    torch.testing.assert_close(torch.tensor(confidence).double(), wanted)
    wrong = relations.clone()
    wrong[20:25] = 1 - wrong[20:25]
    assert score(chances, wrong)[0] == 0.75


def test_the_page_has_a_row_for_every_setting() -> None:
    second = RUN | {"seed": 1, "edges_right": 1.0, "seconds": 70.0, "forecast_error": 0.02}
    chosen = RUN | {"kinds_given": False, "kinds": 3}
    text = page([second, RUN, chosen], [RUN | {"edges_right": 0.5}, RUN | {"tasks": 50, "edges_right": 0.1}])
    rows = [line for line in text.splitlines() if line.startswith("| heat")]
    assert len(rows) == 2
    cells = "99.0% (0: 98.0%, 1: 100.0%) | 0.970 | 50.0% | 0.012, 0.02 | difference, own constants | 61, 70 |"
    assert rows[0] == f"| heat | 300 | 2, given | laws | {cells}"
    assert "| chosen: 3 | laws |" in rows[1]
    assert "  | " in rows[1], "no cold start of its setting is known"
    assert len({file_name(run) for run in (RUN, second, chosen)}) == 3
