"""What any format of files and any world must hold, as mixins.

A subclass gives the part as a fixture: `known` or `world`. `tests/unit/data/test_format_contract.py` does so for every
entry of `FORMATS`, `tests/unit/simulators/test_world_contract.py` for every entry of `WORLDS`.
"""

import json
import time
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from modmeta.data import formats
from modmeta.data.formats import Format
from modmeta.data.generation import generate, interleaved
from modmeta.data.reading import Reading
from modmeta.data.trajectories import Trajectories
from modmeta.errors import DataError
from modmeta.simulators import World

SECONDS = 10.0  # of processor time: no file of a few kilobytes takes longer to read or refuse


def recordings(tasks: int = 3, n: int = 4, frames: int = 6) -> Trajectories:
    """Random states of tasks and entities with names, as long tables hold them too: without labels and settings."""
    states = np.random.default_rng(tasks).standard_normal((tasks, n, frames, 4))
    names = np.array([[f"é-{task}{i}" for i in range(n)] for task in range(tasks)])
    return Trajectories(
        states, None, ("x", "y", "vx", "ω 1"), 1.0, task_names=np.array([f"t{i}" for i in range(tasks)]),
        entity_names=names,
    )  # fmt: skip


class FormatContract:
    """A format of files. It need not hold labels, but those that come back are those that were written."""

    @pytest.fixture
    def known(self) -> Format:
        raise NotImplementedError

    def written(self, known: Format, where: Path, **splits: Trajectories) -> Path:
        if known.write is None:
            pytest.skip("this format is only read")
        path = where / f"data{known.endings[0]}"
        formats.save(path, splits)
        return path

    def test_endings_and_content_lead_to_it(self, known: Format, tmp_path: Path) -> None:
        for ending in known.endings:
            assert ending == ending.lower()
            assert ending.startswith(".")
            assert formats.format_of(tmp_path / f"nowhere{ending.upper()}") is known
        for magic in known.magic:
            (tmp_path / "recording").write_bytes(magic + b"\n")
            assert formats.format_of(tmp_path / "recording") is known

    def test_states_and_names_come_back(self, known: Format, tmp_path: Path) -> None:
        data = recordings()
        back = formats.load(self.written(known, tmp_path, test=data))["test"]
        np.testing.assert_array_equal(back.states, data.states)
        assert back.states.dtype == np.float64
        assert back.mask is None
        assert back.features == data.features
        assert back.frame_step == data.frame_step
        for name in ("task_names", "entity_names"):
            np.testing.assert_array_equal(getattr(back, name), getattr(data, name))
        assert [path.name for path in tmp_path.iterdir()] == [f"data{known.endings[0]}"]

    def test_labels_are_kept_or_left_out(self, known: Format, tmp_path: Path) -> None:
        data = recordings()
        labels = np.random.default_rng(1).integers(0, 3, (3, 4, 4)) * (1 - np.eye(4, dtype=np.int64))
        data = replace(data, relations=labels, types=labels[:, 0], frame_step=0.1)
        back = formats.load(self.written(known, tmp_path, test=data), how=Reading(frame_step=0.1))["test"]
        assert back.frame_step == 0.1
        for name in ("relations", "types"):
            if getattr(back, name) is not None:
                np.testing.assert_array_equal(getattr(back, name), getattr(data, name))

    def test_groups_come_back(self, known: Format, tmp_path: Path) -> None:
        for place, groups in enumerate((np.array(["b", "a 1", "b", "a 1"]), np.array([7, 7, 10, 7]))):
            data = recordings(4)
            named = np.array([f"entity {i}" for i in range(4)])[None].repeat(4, axis=0)
            data = replace(data, entity_names=named, group_names=groups)
            (tmp_path / str(place)).mkdir()
            path = self.written(known, tmp_path / str(place), train=data, test=data[1:2])
            back = formats.load(path)
            np.testing.assert_array_equal(back["train"].group_names, groups)
            np.testing.assert_array_equal(back["test"].group_names, groups[1:2])
            assert back["train"].group_names.dtype.kind == groups.dtype.kind
            assert formats.load(path, how=Reading(group="all"))["train"].num_features == data.num_features

    def test_all_tasks_may_be_one_group(self, known: Format, tmp_path: Path) -> None:
        data = recordings(2)
        path = self.written(known, tmp_path, test=replace(data, entity_names=data.entity_names[[0, 0]]))
        assert formats.load(path)["test"].group_names is None
        assert formats.load(path, how=Reading(group="all"))["test"].group_names.tolist() == ["all", "all"]

    def test_splits_come_back_in_order_or_one_by_one(self, known: Format, tmp_path: Path) -> None:
        data = recordings(tasks=5)
        splits = {"test": data[3:], "train": data[:2], "valid": data[2:3]}
        path = self.written(known, tmp_path, **splits)
        assert list(formats.load(path)) == ["train", "valid", "test"]
        for name, part in splits.items():
            (alone,) = formats.load(path, name).values()
            np.testing.assert_array_equal(alone.states, part.states)
        with pytest.raises(DataError, match=r"no split 'dev'") as told:
            formats.load(path, "dev")
        assert str(path) in str(told.value)

    def test_tasks_may_have_different_sizes(self, known: Format, tmp_path: Path) -> None:
        parts = [replace(recordings(2, n), task_names=None, entity_names=None) for n in (3, 4, 2)]
        data = interleaved(
            [replace(part, relations=np.zeros((2, part.num_entities, part.num_entities), np.int64)) for part in parts]
        )
        back = formats.load(self.written(known, tmp_path, test=data))["test"]
        assert back.sizes == [2, 3, 4]
        np.testing.assert_array_equal(back.mask, data.mask)
        np.testing.assert_array_equal(back.states[data.mask], data.states[data.mask])

    def test_missing_values_are_masked_where_asked(self, known: Format, tmp_path: Path) -> None:
        """Without being asked, they are refused with the place and the remedy, or come back as they were masked."""
        data, mask = recordings(), np.ones((3, 4, 6), bool)
        mask[1, 2, 3] = mask[2, 0, 0] = False
        path = self.written(known, tmp_path, test=replace(data, mask=mask))
        back = formats.load(path, how=Reading(missing="mask"))["test"]
        np.testing.assert_array_equal(back.mask, mask)
        np.testing.assert_array_equal(back.states[mask], data.states[mask])
        assert np.isfinite(back.states).all()
        told, splits = self.read_or_refused(path)
        if splits is None:
            assert "missing=mask" in told
            assert "frame 3" in told or "frame 0" in told
        else:
            np.testing.assert_array_equal(splits["test"].mask, mask)

    def test_nothing_is_overwritten_unasked(self, known: Format, tmp_path: Path) -> None:
        data = recordings()
        path = self.written(known, tmp_path, test=data)
        before = path.read_bytes()
        with pytest.raises(DataError, match="exists"):
            formats.save(path, {"test": data[:1]})
        assert path.read_bytes() == before
        formats.save(path, {"test": data[:1]}, overwrite=True)
        assert formats.load(path)["test"].num_tasks == 1
        broken = data.states.copy()
        broken[0, 0, 0, 0] = np.nan
        for splits in ({}, {"test": replace(data, states=broken)}):
            with pytest.raises(DataError):
                formats.save(path, splits, overwrite=True)
        assert formats.load(path)["test"].num_tasks == 1
        assert [path.name for path in tmp_path.iterdir()] == [path.name]

    def test_damage_is_one_line_or_harmless(self, known: Format, tmp_path: Path) -> None:
        """A file that is cut names itself; one with a bit turned does so, or still holds numbers."""
        data = recordings()
        path = self.written(known, tmp_path, test=data)
        whole, generator = path.read_bytes(), np.random.default_rng(0)
        damaged = [whole[: int(share * len(whole))] for share in (0.0, 0.02, *generator.random(6))]
        for place in generator.integers(len(whole), size=12):
            turned = bytearray(whole)
            turned[place] ^= 1 << int(generator.integers(8))
            damaged.append(bytes(turned))
        for content in damaged:
            path.write_bytes(content)
            self.read_or_refused(path)

    def test_what_is_no_such_file_names_itself(self, known: Format, tmp_path: Path) -> None:
        path = tmp_path / f"data{known.endings[0] if known.endings else ''}"
        with pytest.raises(DataError, match=path.name):
            formats.load(path)
        for content in (b"", b"\n", np.random.default_rng(0).bytes(4000), b"[" * 4000, b"\x80\x04K\x01."):
            path.write_bytes(content)
            assert self.read_or_refused(path)[1] is None, content[:10]
        path.unlink()
        path.mkdir()
        with pytest.raises(DataError, match=path.name):
            formats.load(path)

    def read_or_refused(self, path: Path) -> tuple[str, dict[str, Trajectories] | None]:
        """What a file holds, which is finite, or the one line that refuses it and names it; either takes no time."""
        start, told, splits = time.process_time(), path.name, None
        try:
            splits = formats.load(path)
        except DataError as error:
            told = str(error)
        assert time.process_time() - start < SECONDS
        assert path.name in told
        assert "\n" not in told
        assert splits is None or all(np.isfinite(data.states).all() for data in splits.values())
        return told, splits


class WorldContract:
    """A world: a frozen dataclass whose tasks depend on seed, split and index alone."""

    @pytest.fixture
    def world(self) -> World:
        raise NotImplementedError

    def test_describes_itself(self, world: World) -> None:
        assert is_dataclass(world)
        with pytest.raises(AttributeError):
            world.num_entities = 3  # type: ignore[misc]
        assert world.name.isidentifier()
        assert "task" in world.streams
        assert len(set(world.features)) == len(world.features)
        assert all(isinstance(name, str) and name for name in world.features)
        assert len(set(world.edge_values)) == len(world.edge_values)
        assert world.num_types >= 1
        assert world.frame_step > 0
        settings = json.loads(json.dumps(world.settings()))
        assert settings["world"] == world.name
        assert settings.keys() >= {field.name for field in fields(world)}

    @pytest.mark.parametrize("n", [2, 5])
    def test_shapes_and_ranges(self, world: World, n: int) -> None:
        data = generate(replace(world, num_entities=n), {"test": (40, 6)}, progress=False)["test"]
        assert data.states.shape == (40, n, 6, len(world.features))
        assert np.isfinite(data.states).all()
        assert (data.states.std((0, 1, 2)) > 0).all()
        assert (data.states[:, :, 1:] != data.states[:, :, :-1]).any((0, 1, 3)).all()  # at every frame something moves
        assert data.features == world.features
        assert data.frame_step == world.frame_step
        relations = data.relations
        assert relations is not None
        assert relations.shape == (40, n, n)
        assert not relations[:, np.eye(n, dtype=bool)].any()
        pairs = relations[:, ~np.eye(n, dtype=bool)]
        assert set(np.unique(pairs).tolist()) == set(range(len(world.edge_values)))  # each relation occurs
        if world.num_types == 1:
            assert data.types is None
        else:
            assert data.types is not None
            assert set(np.unique(data.types).tolist()) == set(range(world.num_types))
        data.validate("simulated")

    def test_the_same_seed_gives_the_same_tasks(self, world: World) -> None:
        """Whatever is drawn elsewhere, whatever the number of threads; another seed gives others."""
        made = []
        for seed, threads in ((3, 1), (3, 2), (4, 1)):
            np.random.seed(made == [])  # noqa: NPY002
            made.append(generate(world, {"test": (5, 4)}, seed=seed, threads=threads, progress=False)["test"])
        one, again, other = made
        for name in ("states", "relations", "types"):
            if getattr(one, name) is not None:
                np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
        assert (one.states != other.states).any((1, 2, 3)).all()

    def test_tasks_of_a_split_do_not_depend_on_others(self, world: World) -> None:
        many = generate(world, {"train": (9, 4), "test": (7, 4)}, seed=5, progress=False)
        few = generate(world, {"test": (4, 4)}, seed=5, progress=False)["test"]
        np.testing.assert_array_equal(few.states, many["test"].states[:4])
        np.testing.assert_array_equal(few.relations, many["test"].relations[:4])
        for test in many["test"].states:
            assert not (many["train"].states == test).all((1, 2, 3)).any()

    def test_more_frames_go_on_from_the_same_ones(self, world: World) -> None:
        short, long = (generate(world, {"test": (4, t)}, seed=6, progress=False)["test"].states for t in (3, 6))
        np.testing.assert_array_equal(short, long[:, :, :3])

    def test_settings_without_sense_are_refused(self, world: World) -> None:
        for n in (0, 1, -3):
            with pytest.raises(DataError, match=f"num_entities={n}"):
                replace(world, num_entities=n)
