"""Names are text: those of tasks, entities, features, files and runs come from strangers and show in many places.

Every place has its own way of taking a letter for a command: a terminal escape sequences, rich `[markup]`, matplotlib
`$mathematics$`, a spreadsheet formulas, XML and UTF-8 characters that they cannot hold. One function for each.
"""

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

DRAWN = 24  # letters of a name in a figure
JOINERS = "\u200c\u200d"  # not printable by themselves, but part of words in Persian, Indic scripts and emoji
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
FORMULA = re.compile(r"['\s]*[=+\-@＝＋－＠\t\r\n]")  # noqa: RUF001  spreadsheets know full-width ones, too


def plain(name: object, limit: int | None = None) -> str:
    r"""One line without control characters, which are shown as escapes such as `\n`, `\x1b`, `\u202e`.

    Args:
        name: anything; its text is taken.
        limit: letters; of a longer text the middle is left out.
    """
    text = str(name)
    if limit is not None:
        text = shortened(text, limit)
    if not text.isprintable():
        text = "".join(c if c.isprintable() or c in JOINERS or _is_space(c) else _escaped(c) for c in text)
    return text if limit is None else shortened(text, limit)


def shortened(text: str, limit: int) -> str:
    """The text, or its beginning and its end where it is longer than `limit` letters."""
    if len(text) <= limit:
        return text
    end = (limit - 1) // 3
    return f"{text[: limit - 1 - end]}…{text[len(text) - end :]}"


def encodable(name: object) -> str:
    r"""Text that UTF-8 can hold: half a surrogate pair becomes an escape such as `\ud800`."""
    text = str(name)
    return "".join(_escaped(c) if "\ud800" <= c <= "\udfff" else c for c in text) if not text.isascii() else text


def for_console(name: object) -> "Text":
    """For rich: neither markup nor `:emoji:` codes."""
    from rich.text import Text

    return Text(plain(name))


def for_plot(name: object, limit: int = DRAWN) -> str:
    """For matplotlib: no mathematics, and nothing that its fonts lack."""
    text = plain(name, limit)
    if not text.isascii():
        known = _letters_of_fonts(_fonts())
        text = "".join(c if ord(c) in known else _escaped(c) for c in text)
    return shortened(text, limit).replace("$", r"\$")


def for_sheet(name: object) -> str:
    """For a cell of a CSV file: what a spreadsheet would take for a formula begins with an apostrophe.

    Plain numbers, such as -3, stay what they are. `from_sheet` takes back exactly this apostrophe.
    """
    text = encodable(name)
    return f"'{text}" if _is_formula(text) else text


def from_sheet(cell: str) -> str:
    """What `for_sheet` was given."""
    return cell[1:] if cell.startswith("'") and _is_formula(cell[1:]) else cell


def _is_formula(text: str) -> bool:
    # Whatever follows an apostrophe that was added is a formula itself, and so is the sum of both: a bijection.
    return bool(FORMULA.match(text)) and not NUMBER.fullmatch(text)


def _is_space(letter: str) -> bool:
    return letter.isspace() and letter not in "\t\n\r\v\f\x1c\x1d\x1e\x1f\x85\u2028\u2029"


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def _fonts() -> tuple[str, ...]:
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties, findfont

    return tuple(findfont(FontProperties(family=[family])) for family in rcParams["font.family"])


@lru_cache(maxsize=4)
def _letters_of_fonts(paths: tuple[str, ...]) -> frozenset[int]:
    from matplotlib.font_manager import get_font

    return frozenset().union(*(get_font(path).get_charmap() for path in paths))
