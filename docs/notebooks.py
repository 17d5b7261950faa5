"""Runs the notebooks and saves their outputs, which the site and the repository page show: `make notebooks`.

python docs/notebooks.py               # all
python docs/notebooks.py unseen        # some
"""

import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
ANSI = re.compile(r"\x1b\[[0-9;]*m")  # colours of the terminal


def cleaned(notebook: NotebookNode) -> NotebookNode:
    """The notebook without what differs between runs or machines: stderr, execution times and versions.

    Tables for the terminal become plain text.
    """
    notebook.metadata = {name: notebook.metadata[name] for name in ("kernelspec",)}
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = _merged([output for output in cell.outputs if output.get("name") != "stderr"])
    return notebook


def _merged(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Merges consecutive text outputs into one stream."""
    out: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "display_data" and "image/png" not in output.data:
            text = ANSI.sub("", output.data.get("text/plain", ""))
            output = nbformat.v4.new_output("stream", name="stdout", text=text)
        if output.output_type == "stream" and out and out[-1].output_type == "stream":
            out[-1].text += output.text
        elif output.output_type != "stream" or output.text.strip():
            out.append(output)
    return out


def run(path: Path) -> None:
    """Runs a notebook in an empty directory and saves it with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as directory:
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": directory}}).execute()
    text = nbformat.writes(cleaned(notebook))
    path.write_text(text.replace(f"{directory}/", "") + "\n", encoding="utf-8")  # files lie where the reader runs it


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(path.stem for path in FOLDER.glob("*.ipynb")):
        print(name)
        run(FOLDER / f"{name}.ipynb")
