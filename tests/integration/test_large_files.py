"""Large and hostile files, read in a process of its own whose memory is measured."""

import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from tests.runs import ROOT
from tests.unit.data.test_hostile_data import ARRAYS, HDF5, TABLES

# prints the peak of this program in MB; `ru_maxrss` would begin with the memory of the process that started it
PEAK = "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0][:-3] or 0)\n"


@pytest.mark.slow
def test_a_gigabyte_streams(tmp_path: Path) -> None:
    """31 million rows, a gigabyte of Parquet, are read within 4 GB of memory in all."""
    from tests.runs import command

    path = tmp_path / "large.parquet"
    schema = pa.schema(
        [("task", pa.int64()), ("frame", pa.int64()), ("entity", pa.int64())]
        + [(f, pa.float64()) for f in ("x", "y", "vx", "vy")]
    )
    rng = np.random.default_rng(0)
    tasks, n, t = 2000, 5, 49
    with parquet.ParquetWriter(path, schema) as writer:
        for block in range(64):
            task, frame, entity = (part.ravel() for part in np.indices((tasks, t, n)))
            values = {name: rng.standard_normal(len(task)) for name in ("x", "y", "vx", "vy")}
            writer.write_table(
                pa.table({"task": task + block * tasks, "frame": frame, "entity": entity} | values, schema)
            )
    assert path.stat().st_size > 1e9
    code = (
        "from modmeta.data.formats import load\n"
        f"data = load({str(path)!r})['test']; assert data.states.shape == (128000, 5, 49, 4)\n"
        f"{PEAK}"
    )
    done = command("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 4000, done.stdout


WORST = [
    ("zeros compressed a thousand times", ARRAYS),
    ("npy of exabytes", ARRAYS),
    ("deep settings", ARRAYS),
    ("terabytes in chunks", HDF5),
    ("a chunk that swells", HDF5),
    ("a mistyped frame", TABLES),
    ("a scattered table", TABLES),
    ("two million equal rows", TABLES),
    ("a huge cell", TABLES),
]


READER = """
import sys, time
from modmeta.data.formats import load
from modmeta.data.reading import Reading
from modmeta.errors import DataError
for path in sys.argv[1:]:
    start = time.perf_counter()
    try:
        load(path, how=Reading(missing="mask"))
        print("read", path)
    except DataError as error:
        print(f"{time.perf_counter() - start:.3f} error: {error}")
"""


def test_the_worst_take_little(tmp_path: Path) -> None:
    """Less than 1 GB and 10 s each, in a process of its own; it would hold what all together leave behind."""
    paths = []
    for number, (name, cases) in enumerate(WORST):
        here = tmp_path / str(number)
        here.mkdir()
        paths.append(str(next(make for known, make, _ in cases if known == name)(here)))
    limits = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_CPU, (100, 100))}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", READER + PEAK, *paths], cwd=ROOT, capture_output=True, text=True, **limits
    )
    assert done.returncode == 0, done.stderr
    *lines, peak = done.stdout.splitlines()
    assert len(lines) == len(WORST), done.stdout
    assert all("error: " in line for line in lines), done.stdout
    assert max(float(line.split()[0]) for line in lines) < 10, done.stdout
    assert int(peak) < 1000
    assert time.perf_counter() - start < 60
