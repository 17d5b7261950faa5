"""Trajectories of atoms and particles: xyz, extended xyz, LAMMPS dumps by ASE; DCD, XTC and TRR by MDAnalysis."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from modmeta.data.formats.arrays import with_options
from modmeta.data.reading import Reading
from modmeta.data.trajectories import Trajectories
from modmeta.errors import DataError

LAMMPS = (".lammpstrj", ".dump")
COORDINATES = (".dcd", ".xtc", ".trr")  # of atoms without names
ENDINGS = (".xyz", ".extxyz", *LAMMPS, *COORDINATES)


def read(path: Path, split: str | None, how: Reading) -> dict[str, Trajectories]:
    """One recording; see `modmeta.data.formats.load`.

    Raises:
        DataError: ASE or MDAnalysis is not installed, the file is damaged, or frames differ in their atoms.
    """
    if not path.is_file():
        raise DataError(f"{path} cannot be read (No such file); check the name")
    bare = path.suffix.lower() in COORDINATES
    try:
        data = _by_mdanalysis(path) if bare else _by_ase(path)
    except ModuleNotFoundError as error:
        extra = "md" if bare else "formats"
        raise DataError(
            f"{path} is a trajectory of atoms; install its reader, pip install 'modmeta[{extra}]', or write its "
            "coordinates as `states`, (frames, atoms, axes): numpy.savez('states.npz', states=states)"
        ) from error
    except (DataError, MemoryError):
        raise
    except Exception as error:  # both raise many types of errors for damaged files
        name = "MDAnalysis" if bare else "ASE"
        raise DataError(f"{path} cannot be read by {name} ({error}); check the file") from error
    return with_options(path, {split or "test": data}, how)


def _by_mdanalysis(path: Path) -> Trajectories:
    """Coordinates, and velocities where there are any, of all atoms, which have numbers alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries that it would use if they were there
        from MDAnalysis.coordinates.core import reader

        with reader(str(path)) as frames:
            step, moving = float(frames.dt), bool(frames.ts.has_velocities)
            states = np.array([
                np.concatenate([frame.positions, frame.velocities] if moving else [frame.positions], axis=-1)
                for frame in frames
            ], dtype=np.float64)  # fmt: skip
    note = f"MDAnalysis's reader; units are its own: Angstrom, ps, {step:g} ps a frame"
    return _recording(states, [note], step)


def _by_ase(path: Path) -> Trajectories:
    from ase.io import iread

    lammps = path.suffix.lower() in LAMMPS
    frames = list(iread(str(path), format="lammps-dump-text" if lammps else "extxyz"))  # plain xyz is a case of it
    if not frames:
        raise DataError(f"{path} holds no frames")
    first = frames[0]
    for number, frame in enumerate(frames):
        if len(frame) != len(first) or (frame.numbers != first.numbers).any():
            raise DataError(
                f"{path}: frame {number} has {len(frame)} atoms or other elements, frame 0 has {len(first)}; keep the "
                "atoms that all frames have, in one order"
            )
    states = np.stack([frame.positions for frame in frames])
    if "momenta" in first.arrays:
        states = np.concatenate([states, np.stack([frame.get_velocities() for frame in frames])], axis=-1)
    kinds = np.unique(first.numbers, return_inverse=True)[1]
    return _recording(
        states, [f"ASE's reader; {path.suffix} holds no time between frames unless --frame-step gives it"], 1.0,
        types=kinds.reshape(1, -1).astype(np.int64) if kinds.max() else None,
        entity_names=np.array([[f"{symbol}{i}" for i, symbol in enumerate(first.get_chemical_symbols())]]),
    )  # fmt: skip


def _recording(states: np.ndarray, notes: list[str], step: float, **more: Any) -> Trajectories:
    """One task of states (frames, atoms, 3 or 6), without axes along which nothing varies."""
    names = ["x", "y", "z", "vx", "vy", "vz"][: states.shape[-1]]
    flat = (states == states[:1, :1]).all(axis=(0, 1))
    if flat.any() and not flat.all():
        notes.append(f"left out: {', '.join(np.array(names)[flat])}, constant")
        states, names = states[..., ~flat], [name for name, still in zip(names, flat, strict=True) if not still]
    states = np.ascontiguousarray(states.swapaxes(0, 1))[None].astype(np.float64)
    return Trajectories(states, None, tuple(names), step, notes=tuple(notes), **more)
