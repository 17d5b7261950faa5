"""Keys of a batch, their shapes and meanings.

Shape letters, the same in every file: B tasks, N entities, T frames, D features, K edge modules, G node modules,
H hidden width, M candidates of a receiver, S = N - 1 senders of a receiver, C channels of a message.
"""

TASK = "task"  # (B,) int64: index of the task in its split
STATES = "states"  # (B, N, T, D) float32: normalised as in the protocol
MASK = "mask"  # (B, T - 1) bool: steps whose both frames were observed; absent where all were
RELATIONS = "relations"  # (B, N, S) int64: true relations, for measures only; absent where the data has no labels
TYPES = "types"  # (B, N) int64: true types of entities, for measures only; absent where the data has no such labels
KNOWN = "known"  # (B, N, S) int64: relations that the search is given, -1 for others; absent where none is given
