"""Names from files of anyone, as text: in Markdown, in CSV that spreadsheets open, on one line of a terminal."""

import re

LONGEST = 400  # characters of a name that are shown
MARKUP = re.compile(r"([\\`*\[\]<>#~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|!(?=\[)|&(?=#?\w+;)|://|@|(?i:www)(?=\.))")
CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb]"
)
FORMULAS = ("=", "+", "-", "@", "\t", "\r")


def one_line(text: object) -> str:
    """A text of any length on one line: characters that steer a terminal or reverse letters as `\\x1b`, the end cut."""
    shown = CONTROLS.sub(lambda found: _written(found[0]), str(text)[: LONGEST + 1])
    return shown if len(shown) <= LONGEST else shown[: LONGEST - 1] + "…"


def _written(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def in_markdown(text: object) -> str:
    """A name as Markdown shows it letter by letter: no links, pictures, HTML, emphasis or formulas."""
    escaped = MARKUP.sub(lambda found: f"&#{ord(found[0][0])};{found[0][1:]}", one_line(text))
    return escaped.replace("|", "\\|")


def in_figure(text: object) -> str:
    """A name that Matplotlib draws as it is, not as a formula."""
    return one_line(text)[:60].replace("$", r"\$")


def in_csv(cell: object) -> object:
    """A cell that no spreadsheet executes: text that begins as a formula does is preceded by an apostrophe."""
    if not isinstance(cell, str):
        return cell
    return f"'{cell}" if cell.startswith((*FORMULAS, "'")) else cell


def from_csv(cell: str) -> str:
    """What `in_csv` was given, of text."""
    return cell.removeprefix("'")
