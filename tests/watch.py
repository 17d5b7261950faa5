"""What this process does to its surroundings while code looks at what a stranger wrote."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROCESSES = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "pty.spawn",
)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = (
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.chmod",
    "os.truncate",
    "os.putenv",
    "shutil.rmtree",
    "shutil.move",
    "shutil.copyfile",
    "socket.connect",
    "socket.bind",
    "ctypes.dlopen",
    "webbrowser.open",
)
seen: list[str] | None = None


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if seen is None:
        return
    if event in PROCESSES or event in CHANGES:
        seen.append(f"{event} {arguments!r:.100}")
    elif event == "import" and arguments[0] not in sys.modules:
        seen.append(f"import {arguments[0]}")
    elif event == "open":
        path, mode, flags = arguments
        if (isinstance(mode, str) and set(mode) & set("wax+")) or (isinstance(flags, int) and flags & WRITING):
            seen.append(f"open {path!r} {mode}")


sys.addaudithook(_listen)  # for the rest of the process; it listens within `watched` alone


@contextmanager
def watched() -> Iterator[None]:
    """Fails if anything within starts a process, writes, connects or imports what was not there."""
    global seen
    seen = []
    try:
        yield
        assert seen == []
    finally:
        seen = None


@contextmanager
def without_processes() -> Iterator[None]:
    """Fails if a process is started; commands may import what they need."""
    global seen
    seen = []
    try:
        yield
    finally:
        events, seen = seen, None
        assert not [event for event in events if event.split()[0] in PROCESSES and "git" not in event]
        assert not Path("PWNED").exists()
