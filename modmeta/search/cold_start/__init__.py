"""A cold start of the search: laws first, then structures; pure functions on tensors."""

from modmeta.search.cold_start.alone import bends_otherwise, differ_otherwise
from modmeta.search.cold_start.answers import infer
from modmeta.search.cold_start.far import steepness_of_maps
from modmeta.search.cold_start.noise import driven_by_noise
from modmeta.search.cold_start.records import Answer, Form, Start, Trial
from modmeta.search.cold_start.scales import Scales
from modmeta.search.cold_start.start import cold_start
from modmeta.search.cold_start.structures import roles
from modmeta.search.cold_start.turns import counts_turns
from modmeta.search.cold_start.weak_form import Kind, never_changing, with_circles

__all__ = [
    "Answer",
    "Form",
    "Kind",
    "Scales",
    "Start",
    "Trial",
    "bends_otherwise",
    "cold_start",
    "counts_turns",
    "differ_otherwise",
    "driven_by_noise",
    "infer",
    "never_changing",
    "roles",
    "steepness_of_maps",
    "with_circles",
]
