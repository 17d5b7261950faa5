"""Modules in any composition: added, chained, concatenated, weighed by one another, or on the edges of a graph."""

from modmeta.compositions.library import Library
from modmeta.compositions.problem import ComposedModel
from modmeta.compositions.proposal import SetProposal
from modmeta.compositions.trees import Attend, Chain, Composition, Concatenate, Graph, Sum

__all__ = [
    "Attend", "Chain", "ComposedModel", "Composition", "Concatenate", "Graph", "Library", "SetProposal", "Sum",
]  # fmt: skip
