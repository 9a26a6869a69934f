"""How worker processes start: the server that they are forked from, their environment, signals."""

import ast
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path

import fake_trainer
import pytest
from executor_parts import children, run, setup
from fake_trainer import Behaviour, behave

from autodistill import processes
from autodistill.executors import LocalExecutor
from autodistill.processes import uninterrupted

slow = pytest.mark.slow
forks = pytest.mark.skipif(processes.METHOD != "forkserver", reason="workers import by themselves here")


def tell_environment(pipe: Connection, name: str) -> None:
    pipe.send(os.environ.get(name))


@slow
def test_a_process_has_the_environment_of_its_parent_now(monkeypatch):
    """The server, which is older than both processes, has neither value."""
    processes.start_server()
    ours, theirs = multiprocessing.Pipe()
    for value in ("one", "two"):
        monkeypatch.setenv("AUTODISTILL_TOLD", value)
        process = processes.start(tell_environment, theirs, "AUTODISTILL_TOLD")
        assert ours.poll(60)
        assert ours.recv() == value
        process.join()


@slow
@forks
def test_a_study_survives_the_death_of_the_server(tmp_path):
    """Without the server nobody learns how a worker ended; its run continues in a worker of a new server."""
    behave({"long": Behaviour(epoch_s=0.5)}, cache=tmp_path / "cache")
    before = children()
    with LocalExecutor(1, setup(tmp_path), work=fake_trainer.work) as executor:
        executor.ready()
        (worker,) = children() - before
        server = forkserver._forkserver._forkserver_pid
        killed, messages = [], []

        def kill_both(event: object) -> None:
            messages.append(event)
            if not killed:
                killed.append(server)
                os.kill(server, signal.SIGKILL)
                os.kill(worker, signal.SIGKILL)

        (kept,) = executor.run([run("long")], kill_both)
    assert killed
    assert kept.result.state == "complete"
    assert forkserver._forkserver._forkserver_pid != server


PROGRAM = "import os, autodistill\ndef work(pipe): pipe.send((autodistill.__file__, os.environ.get('PYTHONSAFEPATH')))"
SCRIPT = """
import multiprocessing, sys, program
from autodistill import processes
processes.PRELOADED[:] = sys.argv[1:]
{before}
ours, theirs = multiprocessing.Pipe()
print(type(processes.start(program.work, theirs)).__name__, *ours.recv())
"""


def started(place: Path, *preloaded: str, before: str = "", cwd: Path | None = None, **environment: str) -> list[str]:
    """Run a program in a folder that starts a process; return the kind of the process, its package, and a variable."""
    (place / "program.py").write_text(PROGRAM)
    (place / "script.py").write_text(SCRIPT.format(before=before))
    command = [sys.executable, place / "script.py", *preloaded]
    done = subprocess.run(
        command, cwd=cwd or place, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@slow
@forks
def test_the_server_imports_the_package_of_its_parent_and_nothing_from_the_current_folder(tmp_path):
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
    (tmp_path / "here" / "uuid.py").write_text("raise RuntimeError('a file of the user')")
    (tmp_path / "there" / "autodistill").symlink_to(Path(processes.__file__).parent)
    kind, package, safe = started(tmp_path / "there", "autodistill", "uuid", cwd=tmp_path / "here")
    assert kind == "ForkServerProcess"
    assert Path(package).parents[1] == tmp_path / "there"
    assert safe == "None"


@slow
@forks
def test_processes_are_spawned_where_no_server_can_be_used(tmp_path):
    (tmp_path / "deadly.py").write_text("import os; os.abort()")
    assert started(tmp_path, "deadly")[0] == "SpawnProcess", "each server dies, as when the kernel lacks memory"
    own = "from multiprocessing import forkserver; forkserver.ensure_running()"
    assert started(tmp_path, "uuid", before=own)[0] == "SpawnProcess", "the server is the user's"
    long = tmp_path / ("x" * 100)
    long.mkdir()
    assert started(tmp_path, "uuid", TMPDIR=str(long))[0] == "SpawnProcess", "no socket has such a path"
    fork = "processes.start_server()\nimport os\nif pid := os.fork(): os._exit(os.waitpid(pid, 0)[1] >> 8)"
    assert started(tmp_path, "uuid", before=fork)[0] == "SpawnProcess", "the server is that of the parent"


@slow
@forks
def test_a_server_that_no_process_was_forked_from_ends_with_the_program(tmp_path):
    """Its imports take seconds, and it has inherited the program's stdout: a reader would wait for them."""
    (tmp_path / "slow_import.py").write_text("import time; time.sleep(600)")
    script = "from autodistill import processes; processes.PRELOADED.append('slow_import'); processes.start_server()"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=True, timeout=60)


@slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts native threads in /proc")
def test_what_the_server_imports_starts_no_thread_and_does_not_use_cuda():
    """A fork copies one thread, and CUDA does not work in a fork of a process that has used it."""
    script = f"""
        import importlib, os, sys
        called = set()

        def note(frame, event, function):
            if event == "c_call" and "cuda" in getattr(function, "__name__", ""):
                called.add(function.__name__)

        sys.setprofile(note)
        for name in {processes.PRELOADED!r}:
            importlib.import_module(name)
        sys.setprofile(None)
        import torch
        print([sorted(called - {{"_cuda_version"}}), torch.cuda.is_initialized(), len(os.listdir("/proc/self/task"))])
    """
    # OpenBLAS, which NumPy loads, starts threads; it ends them before a fork.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], env=environment, capture_output=True)
    assert ast.literal_eval(done.stdout.decode()) == [[], False, 1], done.stderr.decode()


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signals of POSIX")
def test_an_interrupt_does_not_reach_a_process_that_is_being_started():
    with uninterrupted():
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_a_system_without_signal_masks_starts_processes_all_the_same(monkeypatch):
    """As Windows does."""

    def no_tracker() -> None:
        raise ModuleNotFoundError("No module named '_posixsubprocess'")

    monkeypatch.delattr(signal, "pthread_sigmask", raising=False)
    monkeypatch.setattr(resource_tracker, "ensure_running", no_tracker)
    with uninterrupted():
        pass
