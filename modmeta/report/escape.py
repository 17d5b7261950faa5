"""Names of anyone as Markdown shows them, letter by letter."""

import re

from modmeta.text import plain

LONGEST = 400  # characters of a name that are shown
MARKUP = re.compile(r"([\\`*\[\]<>#~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|!(?=\[)|&(?=#?\w+;)|://|@|(?i:www)(?=\.))")


def in_markdown(text: object) -> str:
    """A name as Markdown shows it: no links, pictures, HTML, emphasis or formulas."""
    escaped = MARKUP.sub(lambda found: f"&#{ord(found[0][0])};{found[0][1:]}", plain(text, LONGEST))
    return escaped.replace("|", "\\|")
