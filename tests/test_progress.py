"""Tables, errors and progress: plain lines off a terminal, nothing when quiet, user text as it is."""

import io
import re
import time
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from rich.console import Console
from rich.segment import Segment
from rich.text import Text

from autodistill import console
from autodistill.errors import ConfigError
from autodistill.formatting import run_words
from autodistill.records import (
    EpochEvent,
    EpochRecord,
    Event,
    KeptResult,
    Note,
    PhaseStarted,
    RunEnded,
    RunResult,
    TaskProgress,
    TimeLeft,
    TrialEnded,
    TrialParams,
    TrialRecord,
    run_ended,
)

PARAMS = TrialParams(teacher="[b]wrn[/b]", method="isats", method_params={"target_ratio": 5 / 3}, soft_weight=0.5)
EPOCH = EpochRecord(epoch=2, train_loss=1.0, hard_loss=1.0, val_top1=0.5)
BETTER = EpochRecord(epoch=1, train_loss=1.0, hard_loss=1.0, val_top1=0.9)


def run_record(run: str, *, state: str = "complete", error: str = "") -> RunResult:
    return RunResult(run=run, params=PARAMS, seed=0, epochs=2, state=state, error=error, curve=(EPOCH,))


def trial(state: str, reason: str = "") -> TrialRecord:
    return TrialRecord(number=3, kind="search", wave=1, params=PARAMS, seed=0, state=state, reason=reason)


EVENTS = [
    PhaseStarted(phase="confirm", runs=2, epochs=4),
    TaskProgress(task="teacher resnet8", done=1, total=2),
    EpochEvent(run="trials/0003/rung", epochs=2, record=EPOCH, wall_s=0.5),
    RunEnded(record=run_record("trials/0003/rung"), wall_s=1.0),
    RunEnded(record=run_record("confirm/0003-1000"), wall_s=1.0),
    RunEnded(record=run_record("trials/0004/full", state="failed", error="the loss became nan"), wall_s=1.0),
    run_ended(KeptResult(result=run_record("baselines/plain-kd"), study="other"), reused=True),
    run_ended(KeptResult(result=run_record("baselines/no-teacher-1001")), reused=True),
    TrialEnded(record=trial("pruned", "rung 50.0 %: rank 2 of 2 trials")),
    TrialEnded(record=trial("complete").model_copy(update={"full": run_record("trials/0003/full")})),
    Note(text="plan: 20"),
    Note(text="a cache file was damaged", warning=True),
]


def stderr(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> io.StringIO:
    stream = io.StringIO()
    target = Console(file=stream, force_terminal=terminal, width=120, highlight=False, color_system=None)
    monkeypatch.setattr(console, "err", lambda: target)
    return stream


def watched(
    monkeypatch: pytest.MonkeyPatch, *, terminal: bool, quiet: bool = False, events: Sequence[Event] = EVENTS
) -> str:
    stream = stderr(monkeypatch, terminal=terminal)
    with console.Display(quiet=quiet) as display:
        for event in events:
            display.show(event)
    return stream.getvalue()


def on_a_terminal(written: str) -> list[str]:
    """Return the lines that a terminal shows: text, moves of the cursor to the line above, and erased lines."""
    rows, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[\??\d*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", written):
        match part:
            case "\n":
                row, column = row + 1, 0
                rows += [""] * (row == len(rows))
            case "\r":
                column = 0
            case "\x1b[1A":
                row -= 1
            case "\x1b[2K":
                rows[row] = ""
            case _ if not part.startswith("\x1b"):
                rows[row] = rows[row].ljust(column)[:column] + part + rows[row][column + len(part) :]
                column += len(part)
    return [it.rstrip() for it in rows]


class SlowText(Text):
    """Text that takes its time, so that a drawing in another thread falls between its place and its words."""

    def __rich_console__(self, *arguments: Any) -> Iterable[Segment]:
        time.sleep(0.002)
        yield from super().__rich_console__(*arguments)


def test_no_line_is_lost_while_the_display_is_drawn_again(monkeypatch):
    stream = stderr(monkeypatch, terminal=True)
    monkeypatch.setattr(console, "Text", SlowText)
    monkeypatch.setattr(console, "REDRAWN_EVERY_S", 0.0002)
    with console.Display() as display:
        display.show(PhaseStarted(phase="confirm", runs=200, epochs=400))
        for number in range(200):
            run = f"confirm/0003-{number}"
            first = EPOCH.model_copy(update={"epoch": 1})
            display.show(EpochEvent(run=run, epochs=2, record=first, wall_s=0.5))
            display.show(RunEnded(record=run_record(run), wall_s=1.0))
    shown = [it for it in on_a_terminal(stream.getvalue()) if it]
    assert shown[1:] == [f"confirm run of trial 3, seed {it}: 2 epochs, val 50.0 %, 1.0 s" for it in range(200)]


@pytest.mark.parametrize("terminal", [True, False])
def test_what_ended_is_told_in_words(monkeypatch, terminal):
    text = watched(monkeypatch, terminal=terminal)
    for part in (
        "confirm: 2 runs, 4 epochs",
        "confirm run of trial 3, seed 1000: 2 epochs, val 50.0 %, 1.0 s",
        "trial 4, full run: failed: the loss became nan",
        "plain KD: 2 epochs, val 50.0 %, found",
        "no teacher, seed 1001: 2 epochs, val 50.0 %, trained earlier",
        "#3 [b]wrn[/b]  ISATS (target ratio 1.67), soft weight 0.5  pruned: rung 50.0 %: rank 2 of 2 trials",
        "#3 [b]wrn[/b]  ISATS (target ratio 1.67), soft weight 0.5  complete 50.0 %",
        "plan: 20",
        "warning: a cache file was damaged",
    ):
        assert part in text
    assert watched(monkeypatch, terminal=terminal, quiet=True) == ""


def test_off_a_terminal_every_line_has_a_time_and_nothing_is_redrawn(monkeypatch):
    lines = watched(monkeypatch, terminal=False).splitlines()
    assert len(lines) == 9
    assert all(line[2] == line[5] == ":" and line[8] == " " for line in lines)


def test_off_a_terminal_a_long_run_is_heard_of_now_and_then(monkeypatch):
    monkeypatch.setattr(console, "PLAIN_LINE_EVERY_S", 0.0)
    text = watched(monkeypatch, terminal=False)
    assert "trial 3, rung: epoch 2 of 2, val 50.0 %" in text
    assert "teacher resnet8: epoch 1 of 2" in text


def test_a_row_counts_epochs_only_where_there_are_some(monkeypatch):
    """Checking teachers has no epochs; training them has."""
    epoch = TaskProgress(task="teacher resnet8", done=1, total=20)
    for phase, words, row in (
        (PhaseStarted(phase="teachers", runs=0, epochs=0), "checking the teachers", ""),
        (PhaseStarted(phase="teachers", runs=1, epochs=20), "training the teachers", "1/20 epochs"),
        (PhaseStarted(phase="profiles", runs=0, epochs=0), "comparing the teachers", ""),
    ):
        text = watched(monkeypatch, terminal=True, events=[phase] if not row else [phase, epoch])
        assert words in text
        assert row in text
        assert "0/0" not in text


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ("trials/0003/rung", "trial 3, rung"),
        ("trials/0000/full", "trial 0, full run"),
        ("baselines/no-teacher-1000", "no teacher, seed 1000"),
        ("confirm/plain-kd-1001", "confirm run of plain KD, seed 1001"),
        ("reruns/0012-7", "rerun of trial 12, seed 7"),
        ("reruns/shared-1-5", "rerun of the shared configuration with teacher 1, seed 5"),
        ("confirm/shared-1-1000", "confirm run of the shared configuration with teacher 1, seed 1000"),
        ("controls/default-1-1000", "control 1 with the prior, seed 1000"),
        ("audit/0040", "audit of trial 40"),
        ("teacher resnet8", "teacher resnet8"),
    ],
)
def test_runs_are_named_in_words(run, words):
    assert run_words(run) == words


@pytest.mark.parametrize("terminal", [True, False])
def test_what_is_left_stands_beside_the_work(monkeypatch, terminal):
    monkeypatch.setattr(console, "PLAIN_LINE_EVERY_S", 0.0)
    start, epoch = EVENTS[0], EVENTS[2]
    assert "left" not in watched(monkeypatch, terminal=terminal, events=[start, epoch])
    left = TimeLeft(wall_s=200.0)
    lines = watched(monkeypatch, terminal=terminal, events=[left, start, left, epoch])
    assert "confirm: 2 runs, 4 epochs, about 3 min left" in lines
    assert lines.count("about 3 min left") >= 2


def test_a_terminal_shows_the_best_so_far_of_each_teacher(monkeypatch):
    ended = [
        RunEnded(record=run_record("trials/0003/full"), wall_s=1.0),
        RunEnded(record=run_record("baselines/x").model_copy(update={"params": TrialParams()}), wall_s=1.0),
        RunEnded(record=run_record("trials/0004/rung").model_copy(update={"until": 1, "curve": (BETTER,)}), wall_s=1.0),
        TrialEnded(record=trial("pruned", "others did better")),
    ]
    shown = watched(monkeypatch, terminal=True, events=ended)
    assert "best so far (val %): [b]wrn[/b] 50.0, no teacher 50.0" in shown
    assert "best so far" not in watched(monkeypatch, terminal=False, events=ended)


def test_an_error_and_its_hint_go_to_stderr(capsys):
    console.show_error(ConfigError("x.toml: [bold]: wrong", "do y"))
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err == "error: x.toml: [bold]: wrong\nhint: do y\n"


def test_a_table_keeps_hostile_cells_on_one_line(capsys):
    console.show_table("Title", ("name", ">n"), [("[red]a\nb[/red]", 1), (None, 22)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["Title", "name             n"]
    assert lines[2].startswith("[red]a b[/red]   1")
    assert lines[3].startswith("-               22")


def test_a_narrow_terminal_keeps_the_labels_of_a_table_without_column_names(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(console, "out", lambda: Console(file=shown, force_terminal=True, width=25, color_system=None))
    console.show_table("Dry run", ("", ""), [("plan", "20 full trainings = no teacher 1"), ("teachers", "a, b")])
    assert [line.rstrip() for line in shown.getvalue().splitlines()] == [
        "Dry run",
        "plan      20 full",
        "          trainings = no",
        "          teacher 1",
        "teachers  a, b",
        "",
    ]


def test_on_a_narrow_terminal_the_last_cells_stand_below_their_row(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(console, "out", lambda: Console(file=shown, force_terminal=True, width=25, color_system=None))
    rows = [(8, "resnet8", "pruned", "two did better"), (11, "resnet8:0.5", "complete", None)]
    console.show_table("Title", (">#", "teacher", "state", "reason"), rows)
    assert [line.rstrip() for line in shown.getvalue().splitlines()] == [
        "Title",
        " #  teacher      state",
        " 8  resnet8      pruned",
        "    reason two did better",
        "11  resnet8:0.5  complete",
        "",
    ]


def decoded(monkeypatch: pytest.MonkeyPatch, *, terminal: bool, quiet: bool = False, waits_s: tuple = (0, 0)) -> str:
    stream = stderr(monkeypatch, terminal=terminal)
    for name, wait_s in zip(("SHOWN_AFTER_S", "PLAIN_LINE_EVERY_S"), waits_s, strict=True):
        monkeypatch.setattr(console, name, wait_s)
    with console.Decoding(quiet=quiet) as shown:
        shown.progress(1200, 60_000)
        shown.progress(60_000, 60_000)
        shown.say("[b]a file[/b] was damaged")
    return stream.getvalue()


def test_decoding_is_shown_as_lines_or_as_a_bar(monkeypatch):
    lines = decoded(monkeypatch, terminal=False).splitlines()
    assert [line.split(" ", 1)[1] for line in lines[:2]] == [
        "decoding images: 1,200 of 60,000",
        "decoding images: 60,000 of 60,000",
    ]
    assert lines[2:] == ["warning: [b]a file[/b] was damaged"]
    assert decoded(monkeypatch, terminal=False, waits_s=(0, 1e6)).count("decoding images") == 1
    shown = decoded(monkeypatch, terminal=True)
    assert "decoding images" in shown
    assert "60000/60000" in shown


@pytest.mark.parametrize("terminal", [True, False])
def test_decoding_that_takes_less_than_a_second_shows_nothing_and_quiet_shows_nothing_at_all(monkeypatch, terminal):
    assert "decoding" not in decoded(monkeypatch, terminal=terminal, waits_s=(1e6, 0))
    assert decoded(monkeypatch, terminal=terminal, quiet=True) == ""


def test_the_best_scores_stand_above_the_bars():
    bars = console.StudyProgress(console=Console(file=io.StringIO()))
    assert [type(line).__name__ for line in bars.get_renderables()] == ["Table"]
    bars.best = "best so far (val %): resnet8 41.5"
    first, *rest = bars.get_renderables()
    assert str(first) == bars.best
    assert [type(line).__name__ for line in rest] == ["Table"]
