"""Keys of a batch, with shapes and meanings.

Shape letters, the same in every file: B tasks, N entities, T frames, D features, K edge modules, G node modules,
H hidden width, M candidates per receiver, S = N - 1 senders per receiver, C message channels.
"""

TASK = "task"  # (B,) int64: index of the task in its split
GROUP = "group"  # (B,) int64: index of a task's group, whose tasks share a structure; missing if every task has its own
STATES = "states"  # (B, N, T, D) float32: in protocol units
MASK = "mask"  # (B, N, T - 1) int8: how well a step of an entity is known, see `UNKNOWN`; missing if all were observed
RELATIONS = "relations"  # (B, N, S) int64: true relations, for evaluation only; missing if the data has no labels
TYPES = "types"  # (B, N) int64: true types of entities, for evaluation only; missing if the data has no labels
KNOWN = "known"  # (B, N, S) int64: relations given to the search, -1 where not given; missing if none are given

# Steps of entities. An entity that is bridged sends messages, but its own steps say nothing.
UNKNOWN, BRIDGED, OBSERVED = 0, 1, 2  # not known; interpolated reliably at one of its frames; observed at both

# Of tasks of functions: P points of I inputs and O outputs, S slots.
INPUTS = "inputs"  # (B, P, I) float32
OUTPUTS = "outputs"  # (B, P, O) float32
SLOTS = "slots"  # (B, S) int64: true hidden functions, for evaluation only; missing if there are none
UNSEEN = "unseen"  # (B,) bool: whether training never has the combination of a task
