"""Files that the libraries of the field write themselves, wherever these are installed."""

# ruff: noqa: E501  files as their programs write them

from datetime import UTC, datetime
from pathlib import Path

import h5py
import networkx as nx
import numpy as np
import pytest

import modmeta
from modmeta.data import formats
from modmeta.data.formats.python import from_named
from modmeta.data.reading import Reading
from modmeta.errors import DataError
from tests.unit.data.habits import FRAMES, LONG, STATES, STEP, TASKS, N, columns, csv
from tests.unit.data.test_habits import read

PLACES = STATES[0, ..., :2].transpose(1, 0, 2)  # (frames, entities, axes)


@pytest.mark.parametrize("write", ["csv", "parquet", "ipc", "frame"])
def test_polars(write: str, tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame(LONG)
    if write == "frame":
        np.testing.assert_allclose(from_named(frame).states, STATES, atol=1e-6)
        return
    path = tmp_path / f"a.{write.replace('ipc', 'arrow')}"
    getattr(frame, f"write_{write}")(path)
    np.testing.assert_allclose(read(path).states, STATES, atol=1e-6)


@pytest.mark.parametrize("write", ["to_csv", "to_parquet", "to_feather", "to_excel", "german", "to_string"])
def test_pandas(write: str, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(LONG)
    if write == "to_csv":
        frame.to_csv(path := tmp_path / "a.csv")
    elif write == "german":
        frame.to_csv(path := tmp_path / "a.csv", sep=";", decimal=",", index=False)
    elif write == "to_excel":
        pytest.importorskip("openpyxl")
        frame.to_excel(path := tmp_path / "a.xlsx")
    elif write == "to_string":
        (path := tmp_path / "a.txt").write_text(frame.to_string(index=False))
    else:
        getattr(frame, write)(path := tmp_path / f"a.{write.removeprefix('to_')}")
    np.testing.assert_allclose(read(path).states, STATES, atol=1e-6)


def test_data_frames_in_python() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(LONG).rename(columns={"entity": "particle", "x": "X", "task": "trial"})
    data = from_named(frame)
    np.testing.assert_allclose(data.states, STATES, atol=1e-12)
    np.testing.assert_allclose(from_named(frame.set_index(["trial", "frame", "particle"])).states, STATES, atol=1e-12)
    with pytest.raises(DataError, match="no column 'entity'"):
        from_named(frame.rename(columns={"particle": "who"}))


def test_data_arrays_in_python() -> None:
    xarray = pytest.importorskip("xarray")
    coords = {"time": STEP * np.arange(FRAMES), "feature": ["x", "y", "vx", "vy"], "node": ["a", "b", "c"]}
    array = xarray.DataArray(STATES.transpose(2, 0, 1, 3), dims=("time", "trial", "node", "feature"), coords=coords)
    data = from_named(array)
    np.testing.assert_array_equal(data.states, STATES)
    assert data.frame_step == pytest.approx(STEP)
    assert data.features == ("x", "y", "vx", "vy")
    assert data.entity_names is not None
    assert data.entity_names[0].tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(from_named(array[:, 0]).states, STATES[:1])
    with pytest.raises(DataError, match="name them entity, time and feature"):
        from_named(array.rename(node="what"))


def test_a_model_takes_frames_and_arrays(springs: "formats.Trajectories") -> None:
    pandas, xarray = pytest.importorskip("pandas"), pytest.importorskip("xarray")
    model, states = modmeta.load("springs5"), springs.states[:2]
    expected = model.infer(states).relations
    axes = ("task", "entity", "frame", "feature")
    array = xarray.DataArray(states, dims=axes, coords={"feature": ["x", "y", "vx", "vy"]}, name="value")
    frame = array.to_dataframe()["value"].unstack("feature").reset_index()
    frame["likelihood"] = 0.9
    np.testing.assert_array_equal(model.infer(array).relations, expected)
    np.testing.assert_array_equal(model.infer(pandas.DataFrame(frame)).relations, expected)


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # trackpy 0.7 beside pandas 3
def test_trackpy(tmp_path: Path) -> None:
    pandas, trackpy = pytest.importorskip("pandas"), pytest.importorskip("trackpy")
    trackpy.quiet()
    rows = [(10 * x, 10 * y, frame) for frame in range(FRAMES) for x, y in PLACES[frame]]
    table = pandas.DataFrame(rows, columns=["x", "y", "frame"])[["y", "x", "frame"]]
    trackpy.link(table, search_range=4).to_csv(tmp_path / "a.csv")
    data = read(tmp_path / "a.csv")
    assert data.features == ("x", "y")
    found = sorted(data.states[0, :, 0, 0].tolist())
    assert found == pytest.approx(sorted((10 * PLACES[0, :, 0]).tolist()))


@pytest.mark.parametrize("animals", [1, 3])
def test_deeplabcut(animals: int, tmp_path: Path) -> None:
    """Its layout, as pandas writes it; HDF5 where PyTables is installed."""
    pandas = pytest.importorskip("pandas")
    levels = [["net"], *([["a", "b", "c"]] if animals == 3 else []), ["nose", "paw", "tail"], ["x", "y", "likelihood"]]
    names = ["scorer", *(["individuals"] if animals == 3 else []), "bodyparts", "coords"]
    values = np.random.default_rng(0).random((FRAMES, animals * 9)).cumsum(axis=0)
    table = pandas.DataFrame(values, columns=pandas.MultiIndex.from_product(levels, names=names))
    table.to_csv(tmp_path / "a.csv")
    paths = [tmp_path / "a.csv"]
    try:
        import tables  # noqa: F401

        table.to_hdf(tmp_path / "a.h5", key="df_with_missing", format="table")
        paths.append(tmp_path / "a.h5")
    except ImportError:
        pass
    expected = values.reshape(FRAMES, 3, -1).transpose(1, 0, 2)
    for path in paths:
        data = formats.load(path)["test"]
        assert data.features[:3] == (
            ("x", "y", "likelihood") if animals == 1 else ("nose_x", "nose_y", "nose_likelihood")
        )
        order = [["nose", "paw", "tail"] if animals == 1 else ["a", "b", "c"]][0]
        assert data.entity_names is not None
        assert data.entity_names[0].tolist() == order
        np.testing.assert_allclose(data.states[0], expected)


@pytest.mark.parametrize("preset", ["slp", "h5"])
def test_sleap(preset: str, tmp_path: Path) -> None:
    sleap_io = pytest.importorskip("sleap_io")
    skeleton = sleap_io.Skeleton(["nose", "tail"])
    tracks = [sleap_io.Track(name) for name in ("a", "b", "c")]
    points = np.stack([PLACES, PLACES + 1], axis=2)  # (frames, animals, nodes, axes)
    video = sleap_io.Video(filename="v.mp4", open_backend=False)
    made = sleap_io.PredictedInstance.from_numpy
    frames = []
    for frame in range(FRAMES):
        seen = [
            made(points[frame, i], skeleton=skeleton, track=track, point_scores=np.full(2, 0.5), score=0.9)
            for i, track in enumerate(tracks)
        ]
        frames.append(sleap_io.LabeledFrame(video=video, frame_idx=frame, instances=seen))
    labels, path = sleap_io.Labels(frames), tmp_path / f"a.{preset}"
    sleap_io.save_file(labels, str(path)) if preset == "slp" else sleap_io.save_analysis_h5(labels, str(path))
    data = formats.load(path)["test"]
    assert data.features == ("nose_x", "nose_y", "nose_likelihood", "tail_x", "tail_y", "tail_likelihood")
    np.testing.assert_allclose(data.states[0][..., [0, 1, 3, 4]].transpose(1, 0, 2), points.reshape(FRAMES, 3, 4))
    np.testing.assert_allclose(data.states[..., 2], 0.5)


@pytest.mark.parametrize("name", ["a.xyz", "a.extxyz"])
def test_ase(name: str, tmp_path: Path) -> None:
    io, atoms = pytest.importorskip("ase.io"), pytest.importorskip("ase").Atoms
    places = np.concatenate([PLACES, np.zeros((FRAMES, N, 1))], axis=-1)
    frames = [atoms("HeOAr", positions=where, velocities=where * 0 + 0.1 * where) for where in places]
    io.write(tmp_path / name, frames, format="extxyz" if name == "a.extxyz" else "xyz")
    data = formats.load(tmp_path / name)["test"]
    np.testing.assert_allclose(data.states[0, ..., :2].transpose(1, 0, 2), PLACES, atol=1e-6)
    assert data.features[:2] == ("x", "y")
    assert "z" not in data.features
    assert data.entity_names is not None
    assert data.entity_names[0].tolist() == ["He0", "O1", "Ar2"]
    assert data.types is not None
    assert len(set(data.types[0].tolist())) == 3


@pytest.mark.filterwarnings("ignore")  # of libraries that it would use if they were there
def test_mdanalysis(tmp_path: Path) -> None:
    analysis = pytest.importorskip("MDAnalysis")
    pytest.importorskip("ase")
    universe = analysis.Universe.empty(N, trajectory=True)
    with analysis.Writer(str(tmp_path / "a.xyz"), n_atoms=N) as writer:
        for where in PLACES:
            universe.atoms.positions = np.concatenate([where, np.zeros((N, 1))], axis=-1)
            writer.write(universe.atoms)
    data = formats.load(tmp_path / "a.xyz")["test"]
    np.testing.assert_allclose(data.states[0].transpose(1, 0, 2), PLACES, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ending", ["dcd", "xtc", "trr"])
def test_trajectories_of_mdanalysis(ending: str, tmp_path: Path) -> None:
    analysis = pytest.importorskip("MDAnalysis")
    path = tmp_path / f"a.{ending}"
    universe = analysis.Universe.empty(N, trajectory=True, velocities=ending == "trr")
    with analysis.Writer(str(path), n_atoms=N, dt=0.5) as writer:
        for number, where in enumerate(PLACES):
            step = universe.trajectory.ts
            step.frame, step.time = number, 0.5 * number
            universe.atoms.positions = np.concatenate([where, np.zeros((N, 1))], axis=-1)
            if ending == "trr":
                universe.atoms.velocities = 2 * universe.atoms.positions
            writer.write(universe.atoms)
    data = formats.load(path)["test"]
    assert data.features == (("x", "y", "vx", "vy") if ending == "trr" else ("x", "y"))
    np.testing.assert_allclose(data.states[0, ..., :2].transpose(1, 0, 2), PLACES, atol=0.02)  # XTC rounds
    assert data.frame_step == pytest.approx(0.5)
    assert any("left out: z" in note for note in data.notes)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match=rf"a\.{ending} cannot be read by MDAnalysis"):
        formats.load(path)


@pytest.mark.parametrize("kind", ["animals", "cells"])
def test_neurodata_without_borders_names_lines_that_make_states(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pynwb = pytest.importorskip("pynwb")
    from pynwb.behavior import Position, SpatialSeries

    made = pynwb.NWBFile("a", "b", datetime(2024, 1, 1, tzinfo=UTC))
    if kind == "animals":
        position = Position(name="Position")
        for i in range(N):
            series = SpatialSeries(name=f"mouse {i}", data=PLACES[:, i], rate=30.0, reference_frame="-", unit="m")
            position.add_spatial_series(series)
        made.create_processing_module("behavior", "-").add(position)
    else:
        made.add_acquisition(pynwb.TimeSeries(name="cells", data=PLACES[..., 0], rate=30.0, unit="V"))
        made.add_acquisition(pynwb.TimeSeries(name="shutter", data=np.arange(5.0), rate=1.0, unit="V"))
    monkeypatch.chdir(tmp_path)
    with pynwb.NWBHDF5IO("a.nwb", "w") as out:
        out.write(made)
    with pytest.raises(DataError, match="file of Neurodata Without Borders") as failure:
        formats.load("a.nwb")
    exec("import h5py" + str(failure.value).partition("import h5py")[2].partition("; then")[0], {})
    states = formats.load("a.npy")["test"].states[0].transpose(1, 0, 2)
    np.testing.assert_allclose(states, PLACES if kind == "animals" else PLACES[..., :1], atol=1e-6)


def test_lammps(tmp_path: Path) -> None:
    """A dump in the documented layout, atoms in any order."""
    pytest.importorskip("ase")
    text = ""
    for frame, where in enumerate(PLACES):
        rows = "".join(f"{i + 1} 1 {where[i, 0]} {where[i, 1]} 0\n" for i in (2, 0, 1))
        text += f"ITEM: TIMESTEP\n{frame}\nITEM: NUMBER OF ATOMS\n3\nITEM: BOX BOUNDS pp pp pp\n" + "-9 9\n" * 3
        text += f"ITEM: ATOMS id type x y z\n{rows}"
    (tmp_path / "a.lammpstrj").write_text(text)
    data = formats.load(tmp_path / "a.lammpstrj")["test"]
    np.testing.assert_allclose(data.states[0].transpose(1, 0, 2), PLACES, atol=1e-6)


def test_trackmate(tmp_path: Path) -> None:
    """Its two XML layouts and its CSV, whose line of names is followed by three of words."""
    spots = [(frame, i, *PLACES[frame, i]) for i in range(N) for frame in range(FRAMES)]
    tracks = "".join(
        f"<particle nSpots='{FRAMES}'>"
        + "".join(f"<detection t='{t}' x='{x}' y='{y}' z='0.0'/>" for t, of, x, y in spots if of == i)
        + "</particle>"
        for i in range(N)
    )
    (tmp_path / "t.xml").write_text(f"<?xml version='1.0'?>\n<Tracks frameInterval='0.5'>{tracks}</Tracks>")
    known = {(t, i): 100 * i + t for t, i, _, _ in spots}
    all_spots = "".join(
        f"<Spot ID='{known[t, i]}' FRAME='{t}' POSITION_X='{x}' POSITION_Y='{y}' POSITION_Z='0'/>"
        for t, i, x, y in spots
    )
    edges = "".join(
        f"<Track TRACK_ID='{i}'>"
        + "".join(
            f"<Edge SPOT_SOURCE_ID='{known[t, i]}' SPOT_TARGET_ID='{known[t + 1, i]}'/>" for t in range(FRAMES - 1)
        )
        + "</Track>"
        for i in range(N)
    )
    (tmp_path / "m.xml").write_text(
        f"<?xml version='1.0'?>\n<TrackMate><Model><AllSpots>{all_spots}</AllSpots><AllTracks>{edges}</AllTracks></Model></TrackMate>"
    )
    head = "LABEL,ID,TRACK_ID,QUALITY,POSITION_X,POSITION_Y,POSITION_T,FRAME\n"
    head += "Label,Spot ID,Track ID,Quality,X,Y,T,Frame\nLabel,Spot ID,Track ID,Quality,X,Y,T,Frame\n,,,(quality),(mm),(mm),(s),\n"
    rows = "".join(f"ID{known[t, i]},{known[t, i]},{i},9.5,{x},{y},{0.5 * t},{t}\n" for t, i, x, y in spots)
    (tmp_path / "a.csv").write_text(head + rows)
    for name in ("t.xml", "m.xml", "a.csv"):
        data = read(tmp_path / name, ("--features", "POSITION_X,POSITION_Y") if name == "a.csv" else ())
        np.testing.assert_allclose(data.states[0].transpose(1, 0, 2), PLACES)
    assert formats.load(tmp_path / "t.xml")["test"].frame_step == 0.5


# ---- relations as people store them ------------------------------------------------------------------------------------

TRUE = np.array([[0, 1, 0], [0, 0, 0], [1, 0, 0]])  # [receiver, sender]
EDGES = [(0, 1), (2, 0)]


@pytest.mark.parametrize(
    ("name", "content", "factor"),
    [
        ("edges.csv", "receiver,sender\n0,1\n2,0\n", 1),
        ("edges.csv", "source,target\n1,0\n0,2\n", 1),
        ("edges.csv", "from;to;weight\n1;0;0,7\n0;2;-2,5\n", 1),
        ("edges.csv", "task,receiver,sender,relation\n" + "".join(f"{t},0,1,1\n{t},2,0,1\n" for t in range(TASKS)), 1),
        ("edges.csv", "receiver,sender,relation\n0,1,2\n2,0,2\n", 2),
        ("edges.csv", "receiver,sender,type\n0,1,spring\n2,0,spring\n", 1),
        ("edges.csv", "receiver,sender,relation\n0,1,spring\n2,0,spring\n1,0,none\n", 1),
        ("edges.tsv", "Receiver\tSender\tRelation\n0\t1\t1\n2\t0\t1\n", 1),
        ("matrix.csv", ",0,1,2\n0,0,1,0\n1,0,0,0\n2,1,0,0\n", 1),
        ("matrix.txt", "0 1 0\n0 0 0\n1 0 0\n", 1),
    ],
)
def test_relations_as_people_store_them(name: str, content: str, factor: int, tmp_path: Path) -> None:
    path = csv(LONG)(tmp_path)
    (tmp_path / name).write_text(content)
    data = formats.load(path, how=Reading(relations=str(tmp_path / name)))["test"]
    assert data.relations is not None
    assert data.relations.tolist() == [(factor * TRUE).tolist()] * TASKS
    if name.startswith("edges"):
        assert any("pairs have no row, so their relation is 0" in note for note in data.notes)


@pytest.mark.parametrize("ending", ["graphml", "gml", "npy"])
def test_graphs_and_matrices(ending: str, tmp_path: Path) -> None:
    path = csv(LONG)(tmp_path)
    graph = nx.DiGraph([(sender, receiver) for receiver, sender in EDGES])
    labels = tmp_path / f"a.{ending}"
    if ending == "npy":
        np.save(labels, TRUE)
    else:
        (nx.write_graphml if ending == "graphml" else nx.write_gml)(graph, labels)
    data = formats.load(path, how=Reading(relations=str(labels)))["test"]
    assert data.relations is not None
    assert data.relations.tolist() == [TRUE.tolist()] * TASKS


def test_names_of_relations_are_numbered_in_order(tmp_path: Path) -> None:
    path = csv(columns(entities=("a", "b", "c")))(tmp_path)
    (tmp_path / "r.csv").write_text("receiver,sender,relation\na,b,pull\nc,a,push\nb,c,pull\n")
    data = formats.load(path, how=Reading(relations=str(tmp_path / "r.csv")))["test"]
    assert data.relations is not None
    assert data.relations[0].tolist() == [[0, 1, 0], [0, 0, 1], [2, 0, 0]]
    assert "relations are numbered: pull 1, push 2" in data.notes


@pytest.mark.parametrize("way", ["link", "external", "virtual"])
def test_projects_of_sleap_refer_to_no_other_file(way: str, tmp_path: Path) -> None:
    """Whether or not its reader, which would follow them, is installed."""
    other, path = tmp_path / "other.h5", tmp_path / "a.slp"
    with h5py.File(other, "w") as file:
        file["secret"] = np.zeros(3)
    with h5py.File(path, "w") as file:
        if way == "link":
            file["points"] = h5py.ExternalLink(str(other), "secret")
        elif way == "external":
            file.create_dataset("points", (3,), "f8", external=[(str(other), 0, 24)])
        else:
            layout = h5py.VirtualLayout((3,), "f8")
            layout[:] = h5py.VirtualSource(str(other), "secret", (3,))
            file.create_virtual_dataset("points", layout)
    with pytest.raises(DataError, match=r"a\.slp, key points: (a link to another file|.*another file|virtual)"):
        formats.load(path)
