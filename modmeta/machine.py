"""The machine and the source tree that a figure was measured on, and the memory of this process."""

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

TRIM, TOP_PAD, MMAP = -1, -2, -3  # parameters of glibc's mallopt
FROM_SYSTEM, KEPT, AHEAD = 2**25, 2**31 - 1, 2**26  # bytes; the first is as much as glibc allows


def keep_freed() -> None:
    """Keeps freed memory for the next step instead of giving it back to the system.

    Activations of a step are just large enough for glibc to fetch them from the system afresh every time, page by page:
    a third of the time of a gradient step on CPU. Without glibc nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in ((MMAP, FROM_SYSTEM), (TRIM, KEPT), (TOP_PAD, AHEAD)):
            mallopt(parameter, value)


def available() -> float:
    """Free memory in bytes; infinite where the system does not say."""
    source = Path("/proc/meminfo")
    if not source.exists():
        return float("inf")
    lines = dict(line.split(":", 1) for line in source.read_text().splitlines())
    return 1024.0 * int(lines["MemAvailable"].split()[0])


def hardware() -> dict[str, Any]:
    """The machine that a figure was measured on."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"cpu": name, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpus": gpus}


def commit() -> str | None:
    """The git commit of the source tree, marked `+` where files differ from it; none outside a repository."""
    root = Path(__file__).resolve().parents[1]
    try:
        run = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
