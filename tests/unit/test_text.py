"""Names of tasks, entities and features are shown as they are written, wherever they show."""

import io
import warnings
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from rich.console import Console

from modmeta.cli.main import main
from modmeta.data.formats import load, save
from modmeta.data.formats.columns import as_table, write_columns
from modmeta.data.formats.relations import relations_table
from modmeta.data.generation import generate
from modmeta.data.names import plain_name
from modmeta.data.reading import Reading
from modmeta.data.trajectories import Trajectories
from modmeta.errors import DataError, UserError
from modmeta.plots.pictures import plot_graph, plot_matrix, plot_series, plot_trajectories
from modmeta.simulators import Springs
from modmeta.terminal import measures_table
from modmeta.text import for_console, for_plot, for_sheet, from_sheet, plain

WIDE_EQUALS = "\uff1d"  # spreadsheets take it for the usual one
NASTY = [
    "$x$", "$", "b$_{$", r"\frac", r"$\frac{$", "[bold]x", "[/]", ":smile:", "{}", "{0!r}", "%s", "a\nb", "a\rb",
    "\x1b[31mred", "a\x00b", "\u202eevil", "\u2066x", "\ud800", "<script>alert(1)</script>", "&amp;", "\ufffe", "=1+1",
    "+cmd|' /C calc'!A0", "-1+1", "@SUM(A1)", "'=1", "''", "'", "_hidden", "日本語", "😀", "W" * 250, "\t=1", " =1",
    f"{WIDE_EQUALS}1", '"', ",", "-3", "é", "a\u2028b",
]  # fmt: skip
ANY = st.text(max_size=12) | st.sampled_from(NASTY)
FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", WIDE_EQUALS)


@given(name=ANY)
def test_plain_is_one_line(name: str) -> None:
    shown = plain(name)
    shown.encode()
    assert len(shown.splitlines()) <= 1
    assert not any(
        ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or c in "\u202a\u202b\u202d\u202e\u2066\u2067\u2068" for c in shown
    )
    assert plain(shown) == shown
    if name.isprintable():
        assert shown == name
    assert len(plain(name, 5)) <= 5


def test_words_of_other_scripts_stay() -> None:
    for name in ("Überträger", "日本語", "क्\u200dष", "fish 3", "a\u00a0b"):
        assert plain(name) == name


@given(name=ANY | st.text("='+-@ \t\r\n12.e", max_size=8))
def test_cells_come_back(name: str) -> None:
    name = name.encode("utf-8", "ignore").decode()
    cell = for_sheet(name)
    assert from_sheet(cell) == name
    if cell.lstrip(" ").startswith(FORMULAS):
        float(cell)  # a number, which a spreadsheet may take for one


@given(one=ANY, other=ANY)
def test_cells_differ_as_names_do(one: str, other: str) -> None:
    if plain(one) == plain(other) or one == other:
        return
    assert for_sheet(one) != for_sheet(other) or not one.isprintable() or not other.isprintable()


@pytest.mark.parametrize("name", ["-3", "+5", "-1.5", "-2e-3", "3", "a-b", "x=1", "''"])
def test_what_is_no_formula_stays(name: str) -> None:
    assert for_sheet(name) == name


@given(name=ANY)
def test_consoles_print_names(name: str) -> None:
    stream = io.StringIO()
    Console(file=stream, width=1000, color_system="truecolor", force_terminal=True).print(for_console(name))
    assert stream.getvalue() == plain(name) + "\n"


def test_tables_print_names() -> None:
    stream = io.StringIO()
    Console(file=stream, width=200).print(measures_table({"[bold]a": 1.0}, "run [/] of :smile:"))
    assert "[bold]a" in stream.getvalue()
    assert "run [/] of :smile:" in stream.getvalue()


@given(message=ANY)
def test_messages_are_one_line(message: str) -> None:
    for kind in (UserError, DataError):
        assert str(kind(f"a {message}")) == plain(f"a {message}", 2000)
    assert len(str(UserError("x" * 10**6))) <= 2000


# ---- figures ---------------------------------------------------------------------------------------------------------


def test_figures_draw_names() -> None:
    """No mathematics, no warning of a missing letter, no name left out; at the size that `modmeta infer` draws."""
    names = ["$x$", "b$_{$", r"$\frac{$", "a\nb", "\u202eevil", "\ud800", "_hidden", "日本語", "😀", "W" * 250]
    n, t = len(names), 5
    states = np.random.default_rng(0).standard_normal((n, t, 2))
    relations, chances = np.zeros((n, n), int), np.ones((n, n, 2)) / 2
    figure = Figure(figsize=(14, 4.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    plot_trajectories(left, states, names)
    plot_matrix(middle, relations, chances, names)
    plot_graph(right, states[:, -1], relations, chances, names)
    plot_series(Figure().subplots(), states[..., 0], names, *[states[:, :2, 0]] * 3)
    rest = Figure()
    for place, name in enumerate(NASTY):
        rest.text(0.1, place / len(NASTY), for_plot(name))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for drawn in (figure, rest):
            drawn.savefig(io.BytesIO(), format="png")
            drawn.savefig(svg := io.BytesIO(), format="svg")
            ET.fromstring(svg.getvalue())
    labels = [entry.get_text() for entry in left.get_legend().get_texts()]
    assert len(labels) == n
    assert [label.get_text() for label in middle.get_yticklabels()] == labels
    assert all(len(for_plot(name).replace(r"\$", "$")) <= 24 for name in NASTY)


@pytest.mark.parametrize("name", ["$x$", "$", "b$_{$", r"\$a$", "$$"])
def test_dollars_are_drawn(name: str) -> None:
    """The picture is that of the same letters, with mathematics turned off."""

    def picture(text: str, **how: bool) -> bytes:
        figure = Figure(figsize=(2, 1))
        figure.text(0.1, 0.5, text, **how)
        figure.savefig(stream := io.BytesIO(), format="raw")
        return stream.getvalue()

    assert picture(for_plot(name)) == picture(name, parse_math=False)
    assert picture(for_plot(name)) != picture("")


# ---- files -----------------------------------------------------------------------------------------------------------


def named(names: list[str], features: tuple[str, ...] = ("x", "y", "vx", "vy")) -> Trajectories:
    data = generate(Springs(num_entities=len(names)), {"test": (2, 12)}, progress=False)["test"]
    entities = np.array([names, names[::-1]])
    return Trajectories(
        data.states, data.relations, features, data.frame_step, {}, None, np.array(["=1+1", "b"]), entities
    )


NAMES = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=6)
NAMES |= st.text("='+-@\t\r\n, \"1", min_size=1, max_size=4)


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "npz", "h5"])
@given(names=st.lists(NAMES, min_size=2, max_size=4, unique=True), column=NAMES)
@settings(max_examples=20, deadline=None)
def test_names_come_back(ending: str, names: list[str], column: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    if plain_name(column) == "group":
        return  # refused, see test_a_feature_cannot_be_a_key
    here = tmp_path_factory.mktemp("names")
    n = len(names)
    states = np.random.default_rng(0).standard_normal((1, n, 3, 1))
    relations = np.arange(n * n).reshape(1, n, n) % 3
    relations[:, np.eye(n, dtype=bool)] = 0
    data = Trajectories(states, relations, (column + "_",), 1.0, {}, None, np.array([names[0]]), np.array([names]))
    save(here / f"a.{ending}", {"test": data})
    write_columns(here / "r.csv", relations_table(data), False)
    back = load(here / f"a.{ending}", how=Reading(relations=str(here / "r.csv")))["test"]
    order = [back.entity_names[0].astype(str).tolist().index(name) for name in names]  # type: ignore[index]
    assert back.features == data.features
    assert back.task_names is not None
    assert back.task_names.astype(str).tolist() == [names[0]]
    np.testing.assert_array_equal(back.states[:, order], states)
    assert back.relations is not None
    np.testing.assert_array_equal(back.relations[0][np.ix_(order, order)], relations[0])


@pytest.mark.parametrize(
    ("names", "column"), [(["0,", "0"], "0"), (["0", "0."], "0"), (["0", "00"], "ROW"), (["0", "0.0"], "b")]
)
def test_names_like_numbers_come_back(names: list[str], column: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    test_names_come_back.hypothesis.inner_test("csv", names, column, tmp_path_factory)


def test_numbers_stay_numbers(tmp_path: Path) -> None:
    write_columns(tmp_path / "a.csv", as_table({"entity": np.array([-3, 4]), "name": np.array(["-3", "4"])}), False)
    assert (tmp_path / "a.csv").read_text().splitlines()[1:] == ['-3,"-3"', '4,"4"']


def test_a_feature_cannot_be_a_key(tmp_path: Path) -> None:
    data = named(["a", "b", "c"], ("task", "y", "vx", "vy"))
    with pytest.raises(DataError, match="feature 'task' has the name of another column"):
        save(tmp_path / "a.csv", {"test": data})
    data = named(["a", "b", "c"], ("Group", "y", "vx", "vy"))
    with pytest.raises(DataError, match="feature 'Group' has the name of another column"):
        save(tmp_path / "a.csv", {"test": data})


def test_inspect_prints_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = named(["a", "b", "c"])
    np.savez(tmp_path / "[b]x.npz", states=data.states, features=np.array(["[red]x", "\x1b[2J", "{}", ":smile:"]))
    assert main(["inspect", str(tmp_path / "[b]x.npz")]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    for name in ("[red]x", r"\x1b[2J", "{}", ":smile:"):
        assert name in printed


def test_errors_print_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a\n\x1b[2Jb.csv"
    path.write_text("task,frame,entity,x\x1b[31m\n0,0,0,1\n")
    assert main(["inspect", str(path)]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "\x1b" not in printed
