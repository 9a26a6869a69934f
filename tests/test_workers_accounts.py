"""A worker's death is told with its cause, its task, the memory that was free and the end of its stderr."""

import io
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from deadly import dying
from worker_parts import ended, request, setup

from autodistill.errors import StudyError
from autodistill.machine import free_memory_bytes
from autodistill.queue.messages import (
    AgreementTask,
    CheckTask,
    LadderTask,
    ProbeTask,
    ProfileTask,
    TeacherProbeTask,
    ViewTask,
)
from autodistill.queue.terms import in_words
from autodistill.records import Note, TrialParams
from autodistill.store import RunFolder, read_result
from autodistill.workers import Pool, StandBy, deaths
from autodistill.workers.crew import Crew
from autodistill.workers.deaths import Death, KillWatch, account, cause, noticed, unquoted, way_out
from autodistill.workers.joining import leave_on_signals
from autodistill.workers.memory import keep_freed_memory
from autodistill.workers.output import LONGEST_LINE, MOST_LINES, WorkerOutput, harmless, last_lines
from autodistill.workers.standby import uninterrupted

slow = pytest.mark.slow
posix = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
TOLD = {
    "abort": ("signal 6, SIGABRT", "corrupted size vs. prev_size", "Fatal Python error: Aborted"),
    "segmentation fault": (
        f"signal {signal.SIGSEGV.value}, SIGSEGV",
        "Fatal Python error: Segmentation fault",
        "in dying",
    ),
    "kill": ("signal 9, SIGKILL: killed from outside", "it wrote nothing to stderr"),
    "exit": ("exit code 3", "it wrote nothing to stderr"),
    "MemoryError": ("exit code 1", "MemoryError: no room for the gradients"),
}


@slow
@posix
@pytest.mark.parametrize("way", TOLD)
def test_a_run_whose_worker_dies_fails_with_the_cause(way, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("autodistill.workers.pool.work", partial(dying, way))
    monkeypatch.setattr("autodistill.workers.pool.MOST_DEATHS", 1)
    with Pool(1, setup(tmp_path)) as pool:
        found = ended(list(pool.run([request("l", teacher="weak")])))
    error = found.record.error
    assert found.record.state == "failed"
    for said in (*TOLD[way], "while training the run l (teacher weak, isats)"):
        assert said in error
    assert "out of memory" not in error
    assert "\x1b" not in error
    if free_memory_bytes() is not None:
        assert "GB of memory were free" in found.record.reason
    assert found.record.reason == error.splitlines()[0]
    assert read_result(RunFolder(tmp_path / "runs"), "l").record == found.record, "it would be tried again"
    if way == "abort":
        shown = capfd.readouterr().err
        assert shown.count("corrupted size vs. prev_size") == 1, "shown too, and once"
        assert "\x1b" not in shown
        assert r"\x1b[31mcorrupted" in shown


@slow
@posix
def test_a_study_that_cannot_go_on_ends_with_the_cause(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("autodistill.workers.pool.work", partial(dying, "abort"))
    notes: list[Any] = []
    with Pool(1, setup(tmp_path)) as pool, pytest.raises(StudyError) as found:
        notes.extend(pool.run([CheckTask(name="weak")]))
    assert capfd.readouterr().err.count("corrupted size") == 2, "those of the first two; the error quotes the last"
    assert found.value.message.startswith(
        "the worker process died 3 times (last: signal 6, SIGABRT) while checking the teacher weak"
    )
    assert r"    \x1b[31mcorrupted size vs. prev_size" in found.value.message
    assert "`autodistill env`" in found.value.hint
    assert "traceback" not in found.value.hint


@slow
@posix
def test_a_warning_does_not_repeat_the_stderr_that_is_shown(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("autodistill.workers.pool.work", partial(dying, "abort"))
    monkeypatch.setattr("autodistill.workers.pool.MOST_DEATHS", 2)
    with Pool(1, setup(tmp_path)) as pool:
        note, result = pool.run([request("l")])
    assert "; its stderr is shown above\n" in note.text
    assert "corrupted size" not in note.text
    assert "corrupted size" in result.record.error
    assert capfd.readouterr().err.count("corrupted size") == 2, "each death shows its own"


@slow
@posix
def test_deaths_before_the_last_are_warnings(tmp_path, monkeypatch):
    monkeypatch.setattr("autodistill.workers.pool.work", partial(dying, "exit"))
    monkeypatch.setattr("autodistill.workers.pool.MOST_DEATHS", 2)
    with Pool(1, setup(tmp_path)) as pool:
        note, result = pool.run([request("l")])
    assert isinstance(note, Note)
    assert note.warning
    assert note.text.startswith("a worker process died (exit code 3) while training the run l (no teacher)")
    assert note.text.endswith("another worker goes on with it")
    assert "died 2 times (last: exit code 3)" in result.record.error


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The kernel's count of kills for want of memory, and a clock, to be set by a test."""
    found = SimpleNamespace(kills=4, now=0.0)
    monkeypatch.setattr(deaths, "oom_kills", lambda: found.kills)
    return found


@slow
@posix
def test_memory_is_named_where_the_kernel_counted_a_kill(tmp_path, monkeypatch, counter):
    """Two deaths, one counted kill: the first death is explained by it, the second is not."""
    monkeypatch.setattr(deaths, "DYING_S", 1e9)  # the worker's start takes longer than the kernel
    monkeypatch.setattr("autodistill.workers.pool.work", partial(dying, "kill"))
    monkeypatch.setattr("autodistill.workers.pool.MOST_DEATHS", 2)
    with Pool(1, setup(tmp_path)) as pool:
        counter.kills = 5
        note, result = pool.run([request("l")])
    assert "signal 9, SIGKILL: out of memory, by the count of the kernel" in note.text
    assert "signal 9, SIGKILL: killed from outside" in result.record.error


@slow
@posix
def test_a_counted_kill_explains_one_death_of_several_workers(tmp_path, monkeypatch, counter):
    monkeypatch.setattr(deaths, "DYING_S", 1e9)
    monkeypatch.setattr("autodistill.workers.pool.work", partial(dying, "kill"))
    monkeypatch.setattr("autodistill.workers.pool.MOST_DEATHS", 1)
    with Pool(2, setup(tmp_path)) as pool:
        counter.kills = 5
        first, second = (it.record.error for it in pool.run([request("a"), request("b")]))
    assert "out of memory" in first
    assert "killed from outside" in second


@slow
@posix
def test_a_kill_that_was_counted_while_a_worker_waited_on_stand_by_explains_nothing(tmp_path, monkeypatch, counter):
    monkeypatch.setattr("autodistill.workers.pool.work", partial(dying, "kill"))
    monkeypatch.setattr("autodistill.workers.pool.MOST_DEATHS", 1)
    with StandBy(1) as standby:
        counter.kills = 5
        with Pool(1, setup(tmp_path), standby=standby) as pool:
            error = ended(list(pool.run([request("l")]))).record.error
    assert "signal 9, SIGKILL: killed from outside" in error


class Process(multiprocessing.Process):
    """A process that is never started, and lives as long as a test says."""

    alive = True

    def is_alive(self) -> bool:
        return self.alive


@pytest.fixture
def clock(counter: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.setattr(deaths.time, "monotonic", lambda: counter.now)
    return counter


def test_a_kill_of_another_process_does_not_explain_a_later_death(clock):
    watch, worker = KillWatch(), Process()
    for clock.now in range(10):
        watch.look([worker])
        clock.kills = 5 if clock.now >= 3 else 4
    worker.alive = False
    watch.look([worker])
    assert not watch.explains(worker)


@pytest.mark.parametrize("looks_after", [0, 1, 2])
def test_a_kill_explains_the_death_of_a_worker_that_takes_time_to_end(clock, looks_after):
    """The kernel counts a kill first; the process still counts as alive while its memory is released."""
    watch, worker = KillWatch(), Process()
    for clock.now in range(10):
        watch.look([worker])
    clock.kills = 5
    for _ in range(looks_after):
        clock.now += 0.75
        watch.look([worker])
    worker.alive = False
    for _ in range(10):  # dead, but not noticed yet
        clock.now += 1
        watch.look([worker])
    assert watch.explains(worker)


def test_a_kill_explains_one_death_and_leaves_the_next_to_the_next(clock):
    watch, workers = KillWatch(), [Process() for _ in range(3)]
    watch.look(workers)
    clock.kills = 5
    new = Process()
    watch.look([new])
    assert [watch.explains(it) for it in workers[:2]] == [True, False]
    clock.kills = 6
    assert watch.explains(new), "its own count was read after the first kill"
    assert not watch.explains(workers[2])


@slow
@posix
@pytest.mark.parametrize(
    ("seen_alive", "told"), [(True, "killed from outside"), (False, "out of memory, by the count of the kernel")]
)
def test_deaths_of_workers_that_share_a_database_are_explained_alike(
    seen_alive, told, tmp_path, monkeypatch, counter
):
    monkeypatch.setattr(deaths, "DYING_S", 0.0)
    monkeypatch.setattr(deaths, "LOOK_S", 0.0)
    hand = StandBy().take()
    monkeypatch.setattr(Crew, "_start", lambda self, number: hand)
    crew = Crew(1, setup(tmp_path), url=f"sqlite:///{tmp_path}/kd.db", study="s")
    crew._local = [hand]
    assert crew._replaced() == {}
    counter.kills = 5
    if seen_alive:
        assert crew._replaced() == {}
    hand.process.kill()
    hand.process.join()
    hand.pipe.close()
    (found,) = crew._replaced().values()
    assert f"signal 9, SIGKILL: {told}) while working for the study" in found


@pytest.mark.parametrize(
    ("death", "told", "way"),
    [
        (Death(-9, oom_killed=True), "signal 9, SIGKILL: out of memory, by the count of the kernel", "--workers"),
        (Death(-9), "signal 9, SIGKILL: killed from outside", "no counter of the kernel says"),
        (Death(-15), "signal 15, SIGTERM: ended from outside", "look for what kills processes here"),
        (Death(-signal.SIGSEGV), f"signal {signal.SIGSEGV.value}, SIGSEGV", "native library"),
        (Death(-signal.SIGINT), "signal 2, SIGINT", "look for what kills processes here"),
        (Death(-signal.SIGABRT), f"signal {signal.SIGABRT.value}, SIGABRT", "native library"),
        (Death(-signal.SIGILL), f"signal {signal.SIGILL.value}, SIGILL", "native library"),
        (Death(-signal.SIGFPE), f"signal {signal.SIGFPE.value}, SIGFPE", "native library"),
        (Death(-250), "signal 250, no name", "look for what kills processes here"),
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
    assert cause(death) == told
    assert way in way_out(death)
    assert "the same command goes on" in way_out(death)


@posix
@pytest.mark.parametrize("name", ["SIGHUP", "SIGXCPU", "SIGTERM", "SIGPIPE", "SIGALRM", "SIGUSR1", "SIGBUS"])
def test_only_signals_of_failing_native_code_blame_a_library(name):
    number = signal.Signals[name].value
    assert cause(Death(-number)).startswith(f"signal {number}, {name}")
    assert ("native library" in way_out(Death(-number))) == (name == "SIGBUS")
    assert "no counter of the kernel" not in way_out(Death(-number))


def test_an_account_is_whole():
    death = Death(-6, free_bytes=12_340_000_000, gpu_free_bytes=500_000_000, stderr="one\ntwo")
    assert account(death, "training the run r (no teacher)") == (
        "a worker process died (signal 6, SIGABRT) while training the run r (no teacher); "
        "12.3 GB of memory and 0.5 GB of the GPU's memory were free; its stderr ends with:\n    one\n    two"
    )
    assert unquoted(account(death, "waiting")) == (
        "a worker process died (signal 6, SIGABRT) while waiting; "
        "12.3 GB of memory and 0.5 GB of the GPU's memory were free; its stderr is shown above"
    )
    silent = "a worker process died (exit code 3) while waiting; it wrote nothing to stderr"
    assert account(Death(3), "waiting") == unquoted(silent) == silent


def test_every_task_has_words():
    tasks = {
        LadderTask(uri="ladder:resnet8"): "training the teacher ladder:resnet8",
        CheckTask(name="a"): "checking the teacher a",
        ProfileTask(name="a"): "profiling the teacher a",
        ViewTask(name="a", view=3): "computing logits of the teacher a ahead of need",
        TeacherProbeTask(name="a", seconds=1.0): "measuring how long the teacher a takes",
    }
    for task, words in tasks.items():
        assert in_words(task) == words
    assert in_words(AgreementTask(names=("a", "b"))) == "comparing the teachers a, b"
    assert in_words(ProbeTask(params=TrialParams(), seconds=1.0)) == "measuring how long a run takes"


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


def test_output_is_passed_on_once_and_its_file_removed(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    output = WorkerOutput()
    with open(output.path, "ab", buffering=0) as file:
        file.write(b"one\n\xff")
        output.pass_on()
        output.pass_on()
        file.write(b"two\n")
        assert output.tail() == "one\n�two"
    output.close()
    output.close()
    assert shown.getvalue() == "one\n�two\n"
    assert not Path(output.path).exists()
    assert output.tail() == ""


def test_output_that_is_passed_on_cannot_steer_a_terminal(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    output = WorkerOutput()
    with open(output.path, "ab", buffering=0) as file:
        for part in ("a\x1b[2J\tb\r\n\n", "é".encode()[:1], "é".encode()[1:], b" \x07"):
            file.write(part if isinstance(part, bytes) else part.encode())
            output.pass_on()
    output.close()
    assert shown.getvalue() == "a\\x1b[2J   b\n\né \\x07"


def test_what_an_error_quotes_is_not_passed_on(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    output = WorkerOutput()
    with open(output.path, "ab", buffering=0) as file:
        file.write(b"".join(b"line %d\x07\n" % number for number in range(MOST_LINES + 2)))
    output.close(quoted=output.tail())
    assert shown.getvalue() == "line 0\\x07\nline 1\\x07\n"


@slow
def test_without_a_place_for_files_a_worker_keeps_the_stderr_of_its_parent(monkeypatch):
    def full(**_: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("autodistill.workers.output.tempfile.mkstemp", full)
    output = WorkerOutput()
    assert output.path == ""
    output.pass_on()
    assert output.tail() == ""
    output.close()
    code = "import os; from autodistill.workers.output import redirect_stderr as go; go(''); os.write(2, b'k')"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "k")


def test_a_system_without_posix_signals_starts_workers_all_the_same(monkeypatch):
    """Windows has neither SIGUSR1 nor signal masks, and `None` names no library there."""

    def no_tracker() -> None:
        raise ModuleNotFoundError("No module named '_posixsubprocess'")

    told: list[int] = []
    monkeypatch.delattr(signal, "SIGUSR1", raising=False)
    monkeypatch.delattr(signal, "pthread_sigmask", raising=False)
    monkeypatch.setattr(resource_tracker, "ensure_running", no_tracker)
    monkeypatch.setattr(signal, "signal", lambda number, _: told.append(number))
    leave_on_signals(threading.Event())
    assert told == [signal.SIGTERM]
    with uninterrupted():
        pass
    monkeypatch.setattr("autodistill.workers.memory.os", SimpleNamespace(name="nt"))
    assert not keep_freed_memory()


@slow
@posix
@pytest.mark.parametrize("fails", [False, True])
def test_the_free_memory_of_a_gpu_is_told_unless_the_gpu_failed_too(fails, monkeypatch):
    def told(device: str) -> tuple[int, int]:
        assert device == "cuda:1"
        if fails:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return 2_000_000_000, 80_000_000_000

    monkeypatch.setattr("torch.cuda.mem_get_info", told)
    hand = StandBy().take()
    hand.process.kill()
    death = noticed(hand.process, hand.output, KillWatch(), device="cuda:1")
    hand.output.close()
    hand.pipe.close()
    assert death.gpu_free_bytes == (None if fails else 2_000_000_000)
    assert cause(death) == "signal 9, SIGKILL: killed from outside"


@slow
@posix
def test_a_process_that_hangs_after_it_closed_its_pipe_is_ended(monkeypatch):
    monkeypatch.setattr(deaths, "JOIN_S", 0.1)
    hand = StandBy().take()
    death = noticed(hand.process, hand.output, KillWatch(), device="cpu")
    hand.output.close()
    assert not hand.process.is_alive()
    hand.pipe.close()
    assert cause(death).startswith("it closed its pipe but did not end")
