"""Trajectories of atoms and particles, by ASE: xyz, extended xyz, LAMMPS dumps, and the others that ASE reads."""

from pathlib import Path
from typing import Any

import numpy as np

from modmeta.data.formats.arrays import with_options
from modmeta.data.reading import Reading
from modmeta.data.trajectories import Trajectories
from modmeta.errors import DataError

LAMMPS = (".lammpstrj", ".dump")
ENDINGS = (".xyz", ".extxyz", *LAMMPS)


def read(path: Path, split: str | None, how: Reading) -> dict[str, Trajectories]:
    """One recording; see `modmeta.data.formats.load`.

    Raises:
        DataError: ASE is not installed, the file is damaged, or frames differ in their atoms.
    """
    if not path.is_file():
        raise DataError(f"{path} cannot be read (No such file); check the name")
    try:
        from ase.io import iread
    except ModuleNotFoundError as error:
        raise DataError(
            f"{path} is a trajectory of atoms; install its reader, pip install 'modmeta[formats]', or write its "
            "coordinates as `states`, (frames, atoms, axes): numpy.savez('states.npz', states=states)"
        ) from error
    try:
        frames = list(iread(str(path), format=_format(path)))
        data = _recording(path, frames)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # ASE raises many types of errors for damaged files
        raise DataError(f"{path} cannot be read by ASE ({error}); check the file") from error
    return with_options(path, {split or "test": data}, how)


def _format(path: Path) -> str:
    return "lammps-dump-text" if path.suffix.lower() in LAMMPS else "extxyz"  # which plain xyz is a case of


def _recording(path: Path, frames: list[Any]) -> Trajectories:
    if not frames:
        raise DataError(f"{path} holds no frames")
    first = frames[0]
    for number, frame in enumerate(frames):
        if len(frame) != len(first) or (frame.numbers != first.numbers).any():
            raise DataError(
                f"{path}: frame {number} has {len(frame)} atoms or other elements, frame 0 has {len(first)}; keep the "
                "atoms that all frames have, in one order"
            )
    states = np.stack([frame.positions for frame in frames], axis=1)
    names = ["x", "y", "z"]
    if "momenta" in first.arrays:
        states = np.concatenate([states, np.stack([frame.get_velocities() for frame in frames], axis=1)], axis=-1)
        names += ["vx", "vy", "vz"]
    notes = [f"ASE's reader; {path.suffix} holds no time between frames unless --frame-step gives it"]
    flat = (states == states[:1, :1]).all(axis=(0, 1))
    if flat.any() and not flat.all():
        notes.append(f"left out: {', '.join(np.array(names)[flat])}, constant")
        states, names = states[..., ~flat], [name for name, still in zip(names, flat, strict=True) if not still]
    kinds = np.unique(first.numbers, return_inverse=True)[1]
    types = kinds.reshape(1, -1).astype(np.int64) if kinds.max() else None
    entities = np.array([[f"{symbol}{i}" for i, symbol in enumerate(first.get_chemical_symbols())]])
    return Trajectories(
        np.ascontiguousarray(states)[None].astype(np.float64), None, tuple(names), 1.0, types=types,
        entity_names=entities, notes=tuple(notes),
    )  # fmt: skip
