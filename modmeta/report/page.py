"""One HTML page that needs no other file: figures inside, tables, numbers."""

import base64
import html
import io
from collections.abc import Sequence

from matplotlib.figure import Figure

from modmeta.text import plain

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 }
td, th { padding: .2em .8em; border-bottom: 1px solid #ddd; text-align: left }
img { max-width: 100% } figcaption { color: #555 } figure { margin: 1.5em 0 }
"""


def png(figure: Figure) -> bytes:
    """A figure as PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()


def page(
    title: str, facts: Sequence[tuple[str, str]], figures: Sequence[tuple[str, bytes]], notes: Sequence[str]
) -> str:
    """A page.

    Args:
        title: heading.
        facts: names and values of a table.
        figures: captions and PNG images.
        notes: warnings, paragraphs before all else.
    """
    rows = "".join(f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in facts)
    images = "".join(
        f'<figure><img alt="{_text(caption)}" src="data:image/png;base64,{base64.b64encode(image).decode()}">'
        f"<figcaption>{_text(caption)}</figcaption></figure>"
        for caption, image in figures
    )
    warnings = "".join(f"<p><strong>{_text(note)}</strong></p>" for note in notes)
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_text(title)}</title>'
    head += f"<style>{STYLE}</style>"
    return f"{head}<h1>{_text(title)}</h1>{warnings}<table>{rows}</table>{images}</html>\n"


def _text(name: str) -> str:
    return html.escape(plain(name))
