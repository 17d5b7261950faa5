"""Escapes names for display. Names of tasks, entities, features, files and runs may come from untrusted files.

Each output has its own special characters: terminals have escape sequences, rich has `[markup]`, matplotlib has
`$mathematics$`, spreadsheets have formulas, UTF-8 cannot encode surrogates. There is one function for each output.
"""

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

FIGURE_LENGTH = 24  # characters of a name in a figure
JOINERS = "\u200c\u200d"  # not printable alone, but part of words in Persian, Indic scripts and emoji
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
WHOLE = re.compile(r"'*[+-]?\d+\.0+")
FORMULA = re.compile(r"['\s]*[=+\-@＝＋－＠\t\r\n]")  # noqa: RUF001  spreadsheets also accept full-width characters


def plain(name: object, limit: int | None = None) -> str:
    r"""One line of printable text. Control characters become escapes such as `\n`, `\x1b`, `\u202e`.

    Args:
        name: any object; `str(name)` is used.
        limit: maximum number of characters; the middle of longer text is replaced by `…`.
    """
    text = str(name)
    if limit is not None:
        text = shortened(text, limit)
    if not text.isprintable():
        text = "".join(c if c.isprintable() or c in JOINERS or _is_space(c) else _escaped(c) for c in text)
    return text if limit is None else shortened(text, limit)


def shortened(text: str, limit: int) -> str:
    """The text, or its beginning and end joined by `…` if it has more than `limit` characters."""
    if len(text) <= limit:
        return text
    end = (limit - 1) // 3
    return f"{text[: limit - 1 - end]}…{text[len(text) - end :]}"


def encodable(name: object) -> str:
    r"""Text that UTF-8 can encode: unpaired surrogates become escapes such as `\ud800`."""
    text = str(name)
    return "".join(_escaped(c) if "\ud800" <= c <= "\udfff" else c for c in text) if not text.isascii() else text


def for_console(name: object) -> "Text":
    """Text for rich in which markup and `:emoji:` codes are not interpreted."""
    from rich.text import Text

    return Text(plain(name))


def for_plot(name: object, limit: int = FIGURE_LENGTH) -> str:
    """Text for matplotlib without mathematics; characters missing from its fonts are escaped."""
    text = plain(name, limit)
    if not text.isascii():
        known = _letters_of_fonts(_fonts())
        text = "".join(c if ord(c) in known else _escaped(c) for c in text)
    return shortened(text, limit).replace("$", r"\$")


def for_sheet(name: object) -> str:
    """Text of a CSV cell. Text that a spreadsheet would run as a formula, or show as another number, such as 1.0,
    is prefixed with an apostrophe.

    Numbers such as -3 are unchanged. `from_sheet` is the inverse.
    """
    text = encodable(name)
    return f"'{text}" if _is_formula(text) else text


def from_sheet(cell: str) -> str:
    """Inverse of `for_sheet`."""
    return cell[1:] if cell.startswith("'") and _is_formula(cell[1:]) else cell


def _is_formula(text: str) -> bool:
    # A formula with an apostrophe prefix is itself matched as a formula, so `for_sheet` is injective.
    return bool(WHOLE.fullmatch(text) or (FORMULA.match(text) and not NUMBER.fullmatch(text)))


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
