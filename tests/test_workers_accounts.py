"""A worker's death is told with its cause, its task, the memory that was free and the end of its stderr."""

import io
import os
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

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
from autodistill.workers.deaths import Death, account, cause, noticed, way_out
from autodistill.workers.joining import leave_on_signals
from autodistill.workers.memory import keep_freed_memory
from autodistill.workers.output import LONGEST_LINE, MOST_LINES, WorkerOutput, harmless, last_lines
from autodistill.workers.standby import uninterrupted

pytestmark = pytest.mark.slow

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
        assert "corrupted size vs. prev_size" in capfd.readouterr().err, "shown too, as it came"


@posix
def test_a_study_that_cannot_go_on_ends_with_the_cause(tmp_path, monkeypatch):
    monkeypatch.setattr("autodistill.workers.pool.work", partial(dying, "abort"))
    with Pool(1, setup(tmp_path)) as pool, pytest.raises(StudyError) as found:
        list(pool.run([CheckTask(name="weak")]))
    assert found.value.message.startswith(
        "the worker process died 3 times (last: signal 6, SIGABRT) while checking the teacher weak"
    )
    assert r"    \x1b[31mcorrupted size vs. prev_size" in found.value.message
    assert "`autodistill env`" in found.value.hint
    assert "traceback" not in found.value.hint


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


@posix
def test_memory_is_named_where_the_kernel_counted_a_kill(tmp_path, monkeypatch):
    """Two deaths, one counted kill: the first death is explained by it, the second is not."""
    kills = iter([0, 1])  # at the start of the first worker, at its death; the count stays
    last = [0]

    def counted() -> int:
        last[0] = next(kills, last[0])
        return last[0]

    monkeypatch.setattr("autodistill.workers.standby.oom_kills", counted)
    monkeypatch.setattr(deaths, "oom_kills", counted)
    monkeypatch.setattr("autodistill.workers.pool.work", partial(dying, "kill"))
    monkeypatch.setattr("autodistill.workers.pool.MOST_DEATHS", 2)
    with Pool(1, setup(tmp_path)) as pool:
        note, result = pool.run([request("l")])
    assert "signal 9, SIGKILL: out of memory, by the count of the kernel" in note.text
    assert "signal 9, SIGKILL: killed from outside" in result.record.error


@posix
def test_a_counted_kill_explains_one_death_of_several_workers(tmp_path, monkeypatch):
    monkeypatch.setattr("autodistill.workers.standby.oom_kills", lambda: 4)
    monkeypatch.setattr(deaths, "oom_kills", lambda: 5)
    monkeypatch.setattr("autodistill.workers.pool.work", partial(dying, "kill"))
    monkeypatch.setattr("autodistill.workers.pool.MOST_DEATHS", 1)
    with Pool(2, setup(tmp_path)) as pool:
        first, second = (it.record.error for it in pool.run([request("a"), request("b")]))
    assert "out of memory" in first
    assert "killed from outside" in second


@pytest.mark.parametrize(
    ("death", "told", "way"),
    [
        (Death(-9, oom_killed=True), "signal 9, SIGKILL: out of memory, by the count of the kernel", "--workers"),
        (Death(-9), "signal 9, SIGKILL: killed from outside", "no counter of the kernel says"),
        (Death(-15), "signal 15, SIGTERM: ended from outside", "native library"),
        (Death(-signal.SIGSEGV), f"signal {signal.SIGSEGV.value}, SIGSEGV", "native library"),
        (Death(-250), "signal 250, no name", "native library"),
        (Death(3), "exit code 3", "please report"),
        (Death(1, stderr="MemoryError"), "exit code 1", "please report"),
        (Death(0xC0000374), "exit code 0xc0000374, heap corruption", "native library"),
        (Death(0xC0000017), "exit code 0xc0000017, out of memory", "--workers"),
        (Death(None), "it closed its pipe but did not end within 5 s", "please report"),
    ],
)
def test_what_an_exit_status_tells(death, told, way):
    assert cause(death) == told
    assert way in way_out(death)
    assert "the same command goes on" in way_out(death)


def test_an_account_is_whole():
    death = Death(-6, free_bytes=12_340_000_000, gpu_free_bytes=500_000_000, stderr="one\ntwo")
    assert account(death, "training the run r (no teacher)") == (
        "a worker process died (signal 6, SIGABRT) while training the run r (no teacher); "
        "12.3 GB of memory and 0.5 GB of the GPU's memory were free; its stderr ends with:\n    one\n    two"
    )
    assert account(Death(3), "waiting") == (
        "a worker process died (exit code 3) while waiting; it wrote nothing to stderr"
    )


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
    told: list[int] = []
    monkeypatch.delattr(signal, "SIGUSR1", raising=False)
    monkeypatch.delattr(signal, "pthread_sigmask", raising=False)
    monkeypatch.setattr(signal, "signal", lambda number, _: told.append(number))
    leave_on_signals(threading.Event())
    assert told == [signal.SIGTERM]
    with uninterrupted():
        pass
    monkeypatch.setattr("autodistill.workers.memory.os", SimpleNamespace(name="nt"))
    assert not keep_freed_memory()


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
    death = noticed(hand.process, hand.output, oom_kills_before=10**9, device="cuda:1")
    hand.pipe.close()
    assert death.gpu_free_bytes == (None if fails else 2_000_000_000)
    assert cause(death) == "signal 9, SIGKILL: killed from outside"


@posix
def test_a_process_that_hangs_after_it_closed_its_pipe_is_ended(monkeypatch):
    monkeypatch.setattr(deaths, "JOIN_S", 0.1)
    hand = StandBy().take()
    death = noticed(hand.process, hand.output, oom_kills_before=0, device="cpu")
    assert not hand.process.is_alive()
    hand.pipe.close()
    assert cause(death).startswith("it closed its pipe but did not end")
