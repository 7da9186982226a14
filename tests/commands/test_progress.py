"""The progress of long work, where no terminal is; `test_copy` shows it on one."""

import pytest

from hero_api.commands.progress import Progress


def test_a_step_is_a_line_at_times_and_one_at_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hero_api.commands.progress._PAUSE", 0)
    with Progress() as progress:
        progress.begin("counted", 3_000, done=1_000)
        progress.advance(1_000)
    assert capsys.readouterr().err.splitlines() == ["counted 2,000 of 3,000 heroes"] * 2


def test_a_short_step_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as progress:
        for step in ("counted", "compared"):
            progress.begin(step, 3)
            for _ in range(3):
                progress.advance(1)
    assert capsys.readouterr().err.splitlines() == [
        "counted 3 of 3 heroes",
        "compared 3 of 3 heroes",
    ]


def test_nothing_is_said_before_something_begins(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress():
        pass
    assert capsys.readouterr().err == ""
