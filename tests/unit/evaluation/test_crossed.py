"""Laws fitted on some tasks and judged on the others, where it is known whether there are relations."""

from functools import cache

import pytest
import torch
from torch import Tensor

from modmeta.evaluation.crossed import crossed
from modmeta.evaluation.nulls import Compared, Gain, exchange
from modmeta.evaluation.verdict import FOUND, NOTHING, UNKNOWN, UNRESOLVED, decide, of_both, of_file
from modmeta.model.basis import family_named
from modmeta.search.cold_start import Kind, Start, cold_start

KIND = Kind(0, (False,))


def windows(strength: float, tasks: int = 16, entities: int = 4, frames: int = 16) -> Tensor:
    """One recording cut in windows: a feature that decays, is driven by noise and by the differences to some others."""
    generator = torch.Generator().manual_seed(3)
    related = (torch.rand(entities, entities, generator=generator) < 0.5).double() * (1 - torch.eye(entities))
    now = torch.zeros(entities).double()
    states = []
    for _ in range(tasks * (frames - 1) + 1):
        states.append(now)
        pull = (related * (now - now.unsqueeze(1))).sum(-1)
        now = 0.9 * now + strength * pull + 0.3 * torch.randn(entities, generator=generator, dtype=torch.float64)
    whole = torch.stack(states, 1)
    return whole.unfold(1, frames, frames - 1).transpose(0, 1).unsqueeze(-1)


@cache
def started() -> Start:
    """Any law of differences: only its form is taken."""
    states, family = windows(0.15), family_named("difference")
    groups = torch.zeros(len(states), dtype=torch.long)
    return cold_start(states, KIND, num_kinds=2, groups=groups, family=family, constants=False, smooth=False)


def gained(states: Tensor) -> Compared:
    found = crossed(started(), states, torch.zeros(len(states), dtype=torch.long))
    assert found is not None
    assert found.tasks == len(states), "every task judges"
    return found


@pytest.mark.slow
def test_relations_are_found_and_not_among_strangers() -> None:
    states = windows(0.15)
    found = gained(states)
    assert decide(found).name == FOUND
    assert found.agreement > found.agreement_exchanged
    origin = exchange(*states.shape[:2], torch.Generator().manual_seed(7))
    strangers = gained(states[origin, torch.arange(states.shape[1])])
    assert decide(strangers).name == NOTHING
    assert found.none.mean > 5 * strangers.exchanged.mean


@pytest.mark.slow
def test_too_few_tasks_tell_nothing() -> None:
    states = windows(0.15, tasks=16)
    assert crossed(started(), states[:3, :, :7], torch.zeros(3, dtype=torch.long)) is None


@pytest.mark.slow
def test_no_task_judges_what_it_told() -> None:
    """Laws and structures fitted to noise explain less than nothing of other noise."""
    states = torch.randn(16, 4, 8, 1, generator=torch.Generator().manual_seed(1)).double()
    assert gained(states).none.mean < 0


@pytest.mark.parametrize(
    ("module", "laws", "alike", "name"),
    [
        ((0.1, 0.01, 0.9), (0.1, 0.01, 0.9), 1.0, FOUND),
        ((0.1, 0.01, 0.9), (0.0, 0.01, 0.9), 1.0, FOUND),
        ((0.1, 0.01, 0.5), (0.1, 0.01, 0.9), 1.0, UNRESOLVED),
        ((0.02, 0.01, 0.9), (0.1, 0.01, 0.9), 1.0, FOUND),  # too few to tell, and nothing against it
        ((0.02, 0.01, 0.05), (0.1, 0.01, 0.9), 1.0, UNRESOLVED),  # the structures that are reported are the module's
        ((0.02, 0.01, 0.9), (0.1, 0.01, 0.05), 1.0, UNRESOLVED),
        ((0.02, 0.01, 0.9), (0.1, 0.01, 0.9), 0.05, UNRESOLVED),  # others than those that laws find
        ((0.1, 0.01, 0.9), (0.1, 0.01, 0.9), 0.05, FOUND),
        ((-0.02, 0.01, 0.9), (0.1, 0.01, 0.9), 1.0, NOTHING),  # a module that explains less than nothing
        ((0.02, 0.01, 0.9), (0.02, 0.01, 0.9), 1.0, NOTHING),
        ((0.0275, 0.01, 0.9), (0.02, 0.01, 0.9), 1.0, NOTHING),  # two chances of an error
        ((0.0275, 0.01, 0.9), None, 1.0, FOUND),
        (None, (0.1, 0.01, 0.9), 1.0, UNKNOWN),
    ],
)
def test_laws_tell_where_validation_tasks_are_few(
    module: tuple[float, float, float] | None, laws: tuple[float, float, float] | None, alike: float, name: str
) -> None:
    made = [None if of is None else compared(*of, tasks) for of, tasks in ((module, 8), (laws, 16))]
    assert of_both(*made, alike).name == name


def compared(gain: float, error: float, agreement: float, tasks: int) -> Compared:
    return Compared(Gain(gain, error, 15), Gain(gain, error, 15), agreement, 0.0, tasks)


def test_gains_are_the_modules_and_those_of_laws_are_beside_them() -> None:
    laws = compared(0.1, 0.01, 0.9, 16)
    verdict = of_both(compared(0.02, 0.01, 0.8, 4), laws, 1.0)
    assert verdict.name == FOUND
    assert (verdict.over_none, verdict.over_exchanged, verdict.agreement, verdict.tasks) == (0.02, 0.02, 0.8, 4)
    assert verdict.chance == decide(laws).chance
    assert verdict.measures()["val/gain_over_exchanged"] == 0.02
    assert verdict.measures()["laws/gain_over_exchanged"] == 0.1
    assert ("gain of laws fitted anew over no relations", "0.1 ± 0.01 nats per number, 16 tasks") in verdict.facts()
    file = decide(compared(0.03, 0.02, 0.9, 8))
    assert file.name == NOTHING
    assert of_file(verdict, file).name == FOUND, "its gain is no less than the module's in training"
    assert not any(name.startswith("laws") for name in decide(laws).measures())
