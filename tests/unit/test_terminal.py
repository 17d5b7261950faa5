"""Progress where standard error is no terminal."""

import pytest

from modmeta import terminal


def test_a_log_tells_what_is_done(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: clock[0])
    with terminal.doing("searching for laws") as say:
        for seconds, detail in ((1, "springs"), (6, "along the line"), (7, "steep"), (30, "across")):
            clock[0] = float(seconds)
            say(detail)
    told = capsys.readouterr().err.splitlines()
    assert told == ["searching for laws: along the line, 6 s", "searching for laws: across, 30 s"]
