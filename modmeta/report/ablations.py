"""Ablations: variants of the charged experiment that differ in one setting, short runs of 8 epochs.

`python -m benchmarks.runs ablation` runs them, `modmeta report` draws them. The name of a run holds the index of its
variant in `VARIANTS`, so append new variants.
"""

from collections.abc import Sequence
from typing import NamedTuple

from modmeta.report.groups import Group

COMMON = ("experiment=charged5", "trainer.max_epochs=8", "method.model.members=1", "data.test=200")
DISCRETE = ("model=default", "features@model.features=isotropic")
# 16 candidate rows are few enough to enumerate; these variants sample rows instead, and infer in more sweeps.
SAMPLED = ("search.enumerate_up_to=0", "search.flips=false", "search.sweeps=20")
ONE = ("search.receivers=one", "search.sweeps=20")


class Variant(NamedTuple):
    """A variant.

    Attributes:
        part: part of the method that it changes.
        label: what is different.
        overrides: command-line overrides, besides `COMMON`.
    """

    part: str
    label: str
    overrides: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return f"{self.part}: {self.label}" if self.part else self.label


BASE = "as shipped"
DRAWN = ("8 rows drawn from the proposal", "8 rows drawn uniformly")
VARIANTS = (
    Variant("", BASE),
    Variant("model", "relative features, laws with a direction of their own", ("features@model.features=relative",)),
    Variant("model", "absolute features", ("features@model.features=absolute",)),
    Variant("model", "cubic paths for close pairs, too", ("model.pieces=0", "search.sweeps=1")),
    Variant("model", "one step of a frame instead of continuous time", DISCRETE),
    Variant("model", "one step, protocol units instead of robust scales", (*DISCRETE, "model.robust=false")),
    Variant("model", "one step, no linear path", (*DISCRETE, "model.linear_path=false")),
    Variant("likelihood", "Gaussian, learned scales", ("likelihood=gaussian",)),
    Variant("likelihood", "squared error", ("likelihood=squared",)),
    Variant("training", "annealing from 10 instead of 1,000", ("temperature.start=10",)),
    Variant("training", "no weight decay", ("optimizer.modules.weight_decay=0",)),
    Variant("training", "learning rate 0.002", ("optimizer.modules.lr=2e-3",)),
    Variant("model", "one step, MLP node module", (*DISCRETE, "model.additive=false")),
    Variant("model", "one step, relative features", ("model=default",)),
    Variant("model", "one step, absolute features", ("model=default", "features@model.features=absolute")),
    Variant("selection", "greedy", ("search.selection._target_=modmeta.search.selection.greedy",)),
    Variant("selection", "Metropolis", ("search.selection._target_=modmeta.search.selection.metropolis",)),
    Variant("search", "one receiver a step", ONE),
    Variant("search", "one step, one receiver", (*DISCRETE, *ONE)),
    Variant("search", "one step, one receiver, horizon 10", (*DISCRETE, *ONE, "search.horizon=10")),
    Variant("search", DRAWN[0], SAMPLED),
    Variant("search", DRAWN[1], (*SAMPLED, "search.uniform=true")),
    Variant("search", "random structures at every visit", ("method.persist=false",)),
    Variant("search", "one receiver, random structures at every visit", (*ONE, "method.persist=false")),
    Variant("training", "one task at a time", ("data.batch_size=1", "data.batches_per_epoch=1000")),
    Variant("selection", "none: expectation maximisation, all rows weighted", ("method.soft=true",)),
)
# Indices of the variants whose curves are drawn over search steps.
PROPOSALS = tuple(place for place, variant in enumerate(VARIANTS) if variant.label in (BASE, *DRAWN))


def name_of(place: int) -> str:
    """Name of the runs of a variant, given its index."""
    return f"ablation{place:02d}"


def by_tasks(groups: Sequence[Group]) -> dict[int, dict[int, Group]]:
    """Groups of variants by number of tasks, then by index; of several groups, the one with the most seeds."""
    places = {name_of(place): place for place in range(len(VARIANTS))}
    out: dict[int, dict[int, Group]] = {}
    for group in groups:
        if group.name in places:
            of = out.setdefault(group.tasks, {})
            place = places[group.name]
            if place not in of or len(group.runs) > len(of[place].runs):
                of[place] = group
    return dict(sorted(out.items()))


def in_order(of: dict[int, Group]) -> list[tuple[Variant, Group]]:
    """Variants with their groups, ordered by part, the base first."""
    parts = list(dict.fromkeys(variant.part for variant in VARIANTS))
    places = sorted(of, key=lambda place: (parts.index(VARIANTS[place].part), place))
    return [(VARIANTS[place], of[place]) for place in places]
