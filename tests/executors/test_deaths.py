"""A worker's death is told with its cause, its task, free memory and the end of its stderr, which is shown once."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from executor_parts import WAYS, dying, killed, of, run, setup

from autodistill.errors import StudyError
from autodistill.executors import (
    AgreementTask,
    CheckTask,
    LocalExecutor,
    LogitsTask,
    MeasureStudentTask,
    MeasureTeacherTask,
    ProfileTask,
    TrainTeacherTask,
    deaths,
    local,
)
from autodistill.executors.base import describe
from autodistill.executors.deaths import (
    LONGEST_LINE,
    MOST_LINES,
    Death,
    WorkerOutput,
    account,
    harmless,
    last_lines,
    noticed,
    way_out,
)
from autodistill.machine import free_memory_bytes
from autodistill.records import Event, Note, RunEnded, TrialParams

KILLED = "look for what kills processes here"
OTHERS = ("SIGHUP", "SIGXCPU", "SIGPIPE", "SIGALRM", "SIGUSR1")
slow = pytest.mark.slow
posix = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
TOLD = {
    "abort": (
        "while checking the teacher abort",
        "signal 6, SIGABRT",
        "corrupted size vs. prev_size",
        "Fatal Python error: Aborted",
        "in dying",
    ),
    "cut off": (
        "while training the run cut off (teacher weak, isats)",
        "signal 9, SIGKILL: killed from outside",
        "it wrote nothing to stderr",
    ),
    "MemoryError": (
        "while training the run MemoryError (teacher weak, isats)",
        "exit code 1",
        "MemoryError: no room for the gradients",
    ),
}


@slow
@posix
def test_every_death_is_told_with_its_cause(tmp_path, monkeypatch, capfd):
    """Fewer deaths than three are enough to give up: starting a process takes seconds."""
    monkeypatch.setattr("autodistill.executors.base.MOST_DEATHS", 1)
    assert TOLD.keys() == WAYS.keys()
    events: list[Event] = []

    def slowly(event: Event) -> None:
        events.append(event)
        if isinstance(event, Note) and event.text == "first":
            time.sleep(0.5)

    with LocalExecutor(1, setup(tmp_path), work=dying) as executor:
        found = executor.run([run("cut off", teacher="weak")], slowly)
        assert [it.record for it in of(RunEnded, events)] == [it.result for it in found]
        with pytest.raises(StudyError) as ended:
            executor.run([CheckTask(name="abort")], slowly)
        assert "corrupted size" not in capfd.readouterr().err, "the error shows it"
        monkeypatch.setattr("autodistill.executors.base.MOST_DEATHS", 2)
        events.clear()
        found += executor.run([run("MemoryError", teacher="weak")], slowly)
    messages = {"abort": ended.value.message}
    for way, kept in zip(("cut off", "MemoryError"), found, strict=True):
        messages[way] = kept.result.error
        assert kept.result.state == "failed"
        assert kept.result.reason == kept.result.error.splitlines()[0]
    assert "`autodistill env`" in ended.value.hint
    assert "traceback" not in ended.value.hint
    for way, message in messages.items():
        assert all(said in message for said in TOLD[way]), way
        assert "out of memory" not in message
        assert "\x1b" not in message
        if free_memory_bytes() is not None:
            assert "GB of memory were free" in message.splitlines()[0]
    assert r"    \x1b[31mcorrupted size vs. prev_size" in messages["abort"]
    note, last = events
    assert isinstance(note, Note)
    assert note.warning
    assert note.text.startswith("a worker process died (exit code 1) while training the run MemoryError")
    assert note.text.endswith("; its stderr is shown above\n    another worker continues with it")
    assert isinstance(last, RunEnded)
    assert "died 2 times (last: exit code 1)" in last.record.error
    shown = capfd.readouterr().err
    assert shown.count("MemoryError: no room for the gradients") == 2, "each death shows its own, once"
    assert "\x1b" not in shown


@contextmanager
def sleeping() -> Iterator[tuple[BaseProcess, WorkerOutput]]:
    """A process that does nothing, and the file of its stderr."""
    process, output = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,)), WorkerOutput()
    process.start()
    try:
        yield process, output
    finally:
        process.kill()
        process.join()
        output.close()


def died(death: Death) -> str:
    """Return what the account of a death says in brackets: its cause."""
    return account(death, "waiting").removeprefix("a worker process died (").partition(") while waiting")[0]


@slow
@posix
@pytest.mark.parametrize(
    ("kills", "told"), [(4, "out of memory, by the count of the kernel"), (5, "killed from outside")]
)
def test_memory_is_named_where_the_kernel_counted_a_kill(monkeypatch, kills, told):
    monkeypatch.setattr(deaths, "oom_kills", lambda: 5)
    with sleeping() as (process, output):
        process.kill()
        assert died(noticed(process, output, kills=kills)) == f"signal 9, SIGKILL: {told}"


@slow
@posix
def test_a_counted_kill_explains_one_death(tmp_path, monkeypatch):
    """Two workers are killed during their tasks. The kernel's count rises by one after both have their task."""
    counts = [4, 4]
    for module in (local, deaths):
        monkeypatch.setattr(module, "oom_kills", lambda: counts.pop() if counts else 5)
    monkeypatch.setattr("autodistill.executors.base.MOST_DEATHS", 1)
    with LocalExecutor(2, setup(tmp_path), work=killed) as executor:
        executor.ready()
        found = executor.run([run("one"), run("other")], lambda _: None)
    causes = sorted(it.result.error.partition("SIGKILL: ")[2].partition(")")[0] for it in found)
    assert causes == ["killed from outside", "out of memory, by the count of the kernel"]


@pytest.mark.parametrize(
    ("death", "told", "way"),
    [
        (Death(-9, oom_killed=True), "signal 9, SIGKILL: out of memory, by the count of the kernel", "--workers"),
        (Death(-9), "signal 9, SIGKILL: killed from outside", "no counter of the kernel says"),
        (Death(-15), "signal 15, SIGTERM: ended from outside", KILLED),
        (Death(-signal.SIGSEGV), f"signal {signal.SIGSEGV.value}, SIGSEGV", "native library"),
        (Death(-signal.SIGINT), "signal 2, SIGINT", KILLED),
        *(
            pytest.param(Death(-number), f"signal {number}, {name}", way, marks=posix)
            for name, way in {**dict.fromkeys(OTHERS, KILLED), "SIGBUS": "native library"}.items()
            if (number := getattr(signal, name, 0))
        ),
        (Death(-signal.SIGABRT), f"signal {signal.SIGABRT.value}, SIGABRT", "native library"),
        (Death(-signal.SIGILL), f"signal {signal.SIGILL.value}, SIGILL", "native library"),
        (Death(-signal.SIGFPE), f"signal {signal.SIGFPE.value}, SIGFPE", "native library"),
        (Death(-250), "signal 250, no name", KILLED),
        (Death(3), "exit code 3", "please report"),
        (Death(1, stderr="MemoryError"), "exit code 1", "--workers"),
        (Death(1, stderr="Traceback:\nMemoryError: no room\n"), "exit code 1", "--workers"),
        (Death(1, stderr="numpy._core._exceptions._ArrayMemoryError: Unable to"), "exit code 1", "--workers"),
        (Death(1, stderr="MemoryError\n\nKeyError: 'MemoryError: no room'"), "exit code 1", "please report"),
        (Death(3, stderr="MemoryError"), "exit code 3", "please report"),
        (Death(0xC0000374), "exit code 0xc0000374, heap corruption", "native library"),
        (Death(0xC0000017), "exit code 0xc0000017, out of memory", "--workers"),
        (Death(None), "it closed its pipe but did not end within 5 s", "please report"),
    ],
)
def test_what_an_exit_status_tells(death, told, way):
    assert died(death) == told
    assert way_out(death).startswith(way) if way == KILLED else way in way_out(death)
    assert "the same command goes on" in way_out(death)


def test_an_account_is_whole():
    death = Death(-6, free_bytes=12_340_000_000, stderr="one\ntwo")
    assert account(death, "training the run r (no teacher)") == (
        "a worker process died (signal 6, SIGABRT) while training the run r (no teacher); "
        "12.3 GB of memory were free; its stderr ends with:\n    one\n    two"
    )
    assert account(death, "waiting", shown=True) == (
        "a worker process died (signal 6, SIGABRT) while waiting; "
        "12.3 GB of memory were free; its stderr is shown above"
    )
    silent = "a worker process died (exit code 3) while waiting; it wrote nothing to stderr"
    assert account(Death(3), "waiting") == account(Death(3), "waiting", shown=True) == silent


def test_every_task_has_words():
    tasks = [
        (run("r", teacher="weak"), "training the run r (teacher weak, isats)"),
        (TrainTeacherTask(uri="ladder:resnet8"), "training the teacher ladder:resnet8"),
        (CheckTask(name="a"), "checking the teacher a"),
        (ProfileTask(name="a"), "profiling the teacher a"),
        (LogitsTask(name="a", view=3), "computing logits of the teacher a"),
        (AgreementTask(names=("a", "b")), "comparing the teachers a, b"),
        (MeasureTeacherTask(name="a", seconds=1.0), "measuring the teacher a"),
        (MeasureStudentTask(params=TrialParams(), seconds=1.0), "measuring the student"),
    ]
    for task, words in tasks:
        assert describe(task) == words


@slow
@posix
def test_a_process_that_hangs_after_it_closed_its_pipe_is_ended(monkeypatch):
    monkeypatch.setattr(deaths, "JOIN_S", 0.1)
    with sleeping() as (process, output):
        death = noticed(process, output, kills=0)
        assert not process.is_alive()
    assert died(death).startswith("it closed its pipe but did not end")


# Stderr


def test_the_last_lines_keep_the_native_message_and_the_first_frames():
    frames = [f'  File "a.py", line {number} in f' for number in range(100)]
    text = "\n".join(["old warning"] * 30 + ["double free or corruption (!prev)", "Fatal Python error: Aborted", ""])
    text += "\n".join(["", "Stack (most recent call first):", *frames, "", "Extension modules: torch._C (total: 99)"])
    found = last_lines(text).splitlines()
    assert len(found) == MOST_LINES
    assert "double free or corruption (!prev)" in found
    assert found[found.index("Fatal Python error: Aborted") + 2] == frames[0]
    assert found[-1] == "  ..."
    assert not any("Extension modules" in line for line in found)


def test_the_last_lines_of_a_traceback_end_with_the_error():
    found = last_lines("\n".join(f"line {number}" for number in range(50)) + "\nMemoryError\n\n").splitlines()
    assert found == [*(f"line {number}" for number in range(31, 50)), "MemoryError"]
    assert last_lines("") == ""
    assert len(last_lines("x" * 10_000)) == LONGEST_LINE


def test_control_characters_are_spelt_out():
    assert harmless("a\x1b[2J\x07b\r") == r"a\x1b[2J\x07b\r"
    assert harmless("\ttab é 漢") == "    tab é 漢"
    assert "\u202e" not in harmless("\u202eevil")


def test_output_is_passed_on_once_without_control_characters_and_its_file_removed(capsys):
    output = WorkerOutput()
    with open(output.path, "ab", buffering=0) as file:
        for part in (b"one\n\xff", b"\n", b"a\x1b[2J\tb\r\n", "é".encode()[:1], "é".encode()[1:], b" \x07"):
            file.write(part)
            output.pass_on()
            output.pass_on()
        file.write(b"\ntwo\n")
        assert output.tail() == "one\n�\na\\x1b[2J   b\né \\x07\ntwo"
    output.close()
    output.close()
    assert capsys.readouterr().err == "one\n�\na\\x1b[2J   b\né \\x07\ntwo\n"
    assert not Path(output.path).exists()
    assert output.tail() == ""


def test_what_an_error_quotes_is_not_passed_on(capsys):
    output = WorkerOutput()
    with open(output.path, "ab", buffering=0) as file:
        file.write(b"".join(b"line %d\x07\n" % number for number in range(MOST_LINES + 2)))
    output.close(quoted=output.tail())
    assert capsys.readouterr().err == "line 0\\x07\nline 1\\x07\n"


@slow
def test_without_a_place_for_files_a_worker_keeps_the_stderr_of_its_parent(monkeypatch):
    def full(**_: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkstemp", full)
    output = WorkerOutput()
    assert output.path == ""
    output.pass_on()
    assert output.tail() == ""
    output.close()
    code = "import os; from autodistill.executors.deaths import redirect_stderr as go; go(''); os.write(2, b'k')"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "k")
