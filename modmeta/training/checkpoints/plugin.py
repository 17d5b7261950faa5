"""Lightning's way to checkpoint files, which are written and read by `modmeta.training.checkpoints.files`."""

import warnings
from pathlib import Path
from typing import Any

from lightning_fabric.plugins.io import CheckpointIO

from modmeta.training.checkpoints.files import load, save


class DurableCheckpoints(CheckpointIO):
    """Lightning plugin that writes and reads checkpoints with `save` and `load`.

    If a checkpoint cannot be written, for example on a full disk, it warns and training continues.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        try:
            save(checkpoint, Path(path))
        except OSError as error:
            warnings.warn(
                f"{path} could not be written ({error.strerror or error}); the previous checkpoint is kept and "
                "training continues. The next epoch tries again: free some space",
                stacklevel=2,
            )

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        return load(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)
