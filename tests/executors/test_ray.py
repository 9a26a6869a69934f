"""The Ray executor: what it refuses, how files travel between nodes that share nothing, and what a stop keeps.

What all executors do is tested in `test_contract.py`; deaths of nodes and of the driver in `bench/faults.py`.
"""

import os
import shutil
import socket
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_trainer
import numpy as np
import pytest
import torch
from executor_parts import LADDER, SPACE, run, setup
from fake_trainer import Behaviour, behave, trained
from ray_here import RayHere
from safetensors import safe_open

from autodistill import __version__
from autodistill.config import DataSpec
from autodistill.data import load as load_data
from autodistill.errors import ConfigError, DataError, StudyError
from autodistill.executors import CheckTask, LogitsTask, ProfileTask, TrainTeacherTask, perform
from autodistill.executors import ray as executor
from autodistill.executors.base import STARTED, Done
from autodistill.executors.ray import (
    File,
    RayExecutor,
    Worker,
    check_secure,
    connected,
    slots_of,
)
from autodistill.logit_cache import is_whole
from autodistill.methods import code_of
from autodistill.models import build
from autodistill.models.students import student_record
from autodistill.models.uri import with_option
from autodistill.options import cluster
from autodistill.records import EpochEvent, TrialParams
from autodistill.store import StudyFolder, read_result
from autodistill.teachers import load
from autodistill.teachers.adaptation import pretrained

slow = pytest.mark.slow
CHECK = CheckTask(name="weak")


# What is refused


class AuthenticationError(Exception):
    """As `ray.exceptions` has it."""


class Ray(types.ModuleType):
    """A module `ray` that has no cluster.

    Args:
        error: raised when somebody connects.
        address: of the only node.
    """

    def __init__(self, error: Exception | None = None, *, address: str = "127.0.0.1") -> None:
        super().__init__("ray")
        self.error, self.address, self.connections = error, address, list[str]()
        self.exceptions = types.SimpleNamespace(AuthenticationError=AuthenticationError)

    def is_initialized(self) -> bool:
        return bool(self.connections)

    def init(self, *, address: str, **_: object) -> None:
        if self.error is not None:
            raise self.error
        self.connections.append(address)

    def nodes(self) -> list[dict[str, Any]]:
        return [{"NodeManagerAddress": self.address, "Alive": True}]

    def shutdown(self) -> None:
        self.connections.clear()


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Callable[[Ray | None], Ray | None]:
    """Return a function that puts a module in the place of `ray`."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
        monkeypatch.delenv(name, raising=False)

    def give(module: Ray | None) -> Ray | None:
        monkeypatch.setitem(sys.modules, "ray", module)
        return module

    return give


def refusal(address: str = "auto", *, insecure: bool = False) -> ConfigError:
    with pytest.raises(ConfigError) as found:
        connected(address, insecure=insecure)
    assert found.value.message.startswith(f"--ray {address}: ")
    return found.value


MISMATCH = RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.60.0\n    Python: 3.12.1")


@pytest.mark.parametrize(
    ("ray", "address", "message", "hint"),
    [
        (None, "auto", "Ray is not installed", "pip install 'kd-autodistill[ray]'"),
        (Ray(), "ray://head:10001", "client mode", "ray job submit"),
        (Ray(ConnectionError("No instance.\nmore")), "auto", "no cluster there (No instance.)", "ray start --head"),
        (Ray(), "127.0.0.1:6399", "no cluster there ([Errno 111] refused by 127.0.0.1 port 6399)", "--ray local"),
        *((Ray(), address, "is no address", "HOST:PORT") for address in ("nonsense", "host:", "host:port", ":6379")),
        (Ray(MISMATCH), "auto", "started with: Ray: 2.60.0 Python: 3.12.1", "same Python and Ray"),
        (Ray(AuthenticationError("InvalidAuthToken")), "auto", "refuses the token", "RAY_AUTH_TOKEN"),
    ],
)
def test_a_cluster_that_cannot_be_used_is_refused_with_what_to_do(given, monkeypatch, ray, address, message, hint):
    def connect(address: tuple[str, int], timeout: float) -> None:
        raise ConnectionRefusedError(111, f"refused by {address[0]} port {address[1]}")

    monkeypatch.setattr(socket, "create_connection", connect)
    given(ray)
    error = refusal(address)
    assert message in error.message
    assert hint in error.hint


def test_another_error_of_ray_is_not_hidden(given):
    given(Ray(RuntimeError("something else")))
    with pytest.raises(RuntimeError, match="something else"):
        connected("auto")


def test_a_cluster_that_is_open_to_a_network_is_refused_and_left(given, monkeypatch):
    ray = given(Ray(address="192.168.1.7"))
    error = refusal()
    assert "192.168.1.7 without token authentication" in error.message
    assert "--insecure" in error.hint
    assert not ray.is_initialized()
    assert connected("auto", insecure=True) is ray
    ray.shutdown()
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert connected("auto") is ray
    assert connected("auto") is ray, "and the connection is kept"
    assert ray.connections == ["auto"]


def test_only_nodes_on_a_network_that_are_there_make_a_cluster_open(monkeypatch):
    gone = {"NodeManagerAddress": "192.168.1.7", "Alive": False}
    here = ("127.0.0.1", "127.0.0.2", "::1", "localhost")
    for mode in ("", "disabled"):
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
        check_secure("auto", [gone, *({"NodeManagerAddress": address, "Alive": True} for address in here)])
        with pytest.raises(ConfigError, match="head"):
            check_secure("auto", [gone, {"NodeManagerAddress": "head", "Alive": True}])


def test_the_room_of_a_cluster():
    assert slots_of({"CPU": 7.0}, gpu=False, per_gpu=1) == 7
    assert slots_of({"CPU": 64.0, "GPU": 4.0}, gpu=True, per_gpu=3) == 12
    assert slots_of({}, gpu=False, per_gpu=1) == 1, "an actor waits until a node is there"
    with pytest.raises(ConfigError, match="the cluster has no GPU"):
        slots_of({"CPU": 64.0}, gpu=True, per_gpu=1)


# The actor, in this process


def test_a_node_with_another_version_or_other_data_is_refused_by_name(tmp_path):
    pytest.importorskip("ray")
    with pytest.raises(ConfigError, match=rf"node .*: has kd-autodistill {__version__}, the driver has 0\.0\.9"):
        Worker(setup(tmp_path), "token", fake_trainer.work).describe("0.0.9")
    with pytest.raises(DataError, match=r"node .*: other images or labels than here under 'digits'"):
        Worker(setup(tmp_path, data="other"), "token", fake_trainer.work).describe(__version__)


def test_checkpoints_are_sent_while_a_task_runs_and_the_result_last(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr(executor, "SEND_EVERY_S", 0.1)
    monkeypatch.setattr(executor, "LOOK_S", 0.02)
    behave({"far": Behaviour(epoch_s=0.08)})
    messages = list(Worker(setup(tmp_path), "token", fake_trainer.work).perform(run("far", epochs=6), {}))
    assert messages[0] == STARTED
    assert isinstance(messages[-1], Done)
    files = [it for it in messages if isinstance(it, File)]
    checkpoints = [int(it.content) for it in files if it.name == "study/checkpoints/far.pt"]
    assert len(checkpoints) >= 2
    assert checkpoints == sorted(set(checkpoints)), "each is newer than the one before"
    assert [it.name for it in files[-2:]] == ["study/weights/far.safetensors", "study/results/far.json"]
    assert len([it for it in messages if isinstance(it, EpochEvent)]) == 6
    assert not (tmp_path / "runs").exists(), "the folder of the driver is another"


def test_an_actor_that_sees_the_driver_s_folders_sends_no_files(tmp_path):
    pytest.importorskip("ray")
    asked = setup(tmp_path)
    for folder in (asked.folder, asked.cache):
        Path(folder).mkdir(parents=True)
        (Path(folder) / executor.MARKER).write_text("token")
    messages = list(Worker(asked, "token", fake_trainer.work).perform(run("here"), {}))
    assert not [it for it in messages if isinstance(it, File)]
    assert read_result(StudyFolder(Path(asked.folder)), "here") is not None


def failing(task: object, context: object) -> None:
    raise KeyError("tau")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_unforeseen_error_names_the_node_and_the_task(tmp_path):
    pytest.importorskip("ray")
    done = list(Worker(setup(tmp_path), "token", failing).perform(CHECK, {}))[-1]
    assert isinstance(done, Done)
    assert isinstance(done.error, StudyError)
    assert "KeyError: 'tau', while checking the teacher weak" in done.error.message


# On a real cluster


@pytest.fixture
def node_cache(ray_cluster: None) -> Path:
    """Return the cache folder of the cluster's node."""
    ray = pytest.importorskip("ray")
    return Path(ray.get(ray.remote(os.getenv).remote("AUTODISTILL_CACHE")))


@pytest.fixture
def node_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Put a cluster without processes in the place of Ray; return the cache folder of its node."""
    monkeypatch.setitem(sys.modules, "ray", RayHere())
    monkeypatch.setenv("AUTODISTILL_CACHE", str(tmp_path / "node"))
    return tmp_path / "node"


def apart(home: Path, work: Any = fake_trainer.work, **fields: object) -> RayExecutor:
    """Start an actor that shares no folder with the driver."""
    return RayExecutor(setup(home, **fields), address="local", workers=1, shared=False, work=work)


@slow
def test_what_a_run_writes_reaches_the_driver_and_the_next_actor(node_cache, tmp_path):
    """A checkpoint, from which the next actor continues, and weights, from which it computes a test score."""
    folder = StudyFolder(tmp_path / "runs" / "study")
    behave({}, cache=node_cache)
    with apart(tmp_path) as first:
        first.run([run("travels", until=2), run("scored", evaluate_on="validation")], lambda _: None)
        assert int(folder.checkpoint("travels").read_text()) == 2
    assert not list(node_cache.glob("ray/*")), "the actor has removed its files"
    with apart(tmp_path) as second:
        tasks = [run("travels", begun_epochs=2), run("scored", evaluate_on="validation+test")]
        found, scored = second.run(tasks, lambda _: None)
    assert trained("travels", cache=node_cache) == [1, 2, 3, 4]
    assert read_result(folder, "travels") == found
    assert folder.weights("travels").exists()
    assert not folder.checkpoint("travels").exists()
    assert trained("scored", cache=node_cache) == [1, 2, 3, 4]
    assert scored.result.curve[-1].test_top1 is not None


def test_a_checkpoint_that_is_written_at_once_is_sent(tmp_path, monkeypatch):
    pytest.importorskip("ray")

    class AtOnce(threading.Thread):
        """A thread that has ended when `start` returns."""

        def start(self) -> None:
            super().start()
            self.join()

    monkeypatch.setattr(executor.threading, "Thread", AtOnce)
    monkeypatch.setenv("AUTODISTILL_CACHE", str(tmp_path / "node"))
    behave({}, cache=tmp_path / "node")
    worker = Worker(setup(tmp_path), "no folder of the driver", fake_trainer.work)
    sent = [it.name for it in worker.perform(run("at-once", until=2), {}) if isinstance(it, File)]
    assert "study/checkpoints/at-once.pt" in sent


@slow
def test_teachers_and_logits_are_kept_by_the_driver_and_a_damaged_file_is_computed_again(node_here, tmp_path):
    cache, tasks = tmp_path / "cache", [CHECK, LogitsTask(name="weak", view=0)]
    with apart(tmp_path, perform) as first:
        first.run([TrainTeacherTask(uri=LADDER)], lambda _: None)
        checked, computed = first.run(tasks, lambda _: None)
        again, none = first.run(tasks, lambda _: None)
    assert (computed, none) == (1, 0)
    assert again == checked
    logits = sorted(cache.glob("logits/*/*.safetensors"))
    assert len(logits) == 2
    assert len(list(cache.glob("ladder/*/*.safetensors"))) == 1
    content = [path.read_bytes() for path in logits]

    for path in node_here.glob("logits/*/*.safetensors"):
        path.unlink()
    for path in logits:
        path.write_bytes(b"damaged")
    with apart(tmp_path, perform) as second:
        assert second.run([CHECK], lambda _: None) == [checked]
        second.run([ProfileTask(name="weak")], lambda _: None)
    assert all(map(is_whole, logits))
    assert [path.read_bytes() for path in logits] == content, "computed there as here"


@slow
def test_a_node_without_the_data_or_with_other_data_ends_the_study(node_here, tmp_path):
    nowhere = SPACE.data.model_copy(update={"name": f"folder:{tmp_path / 'images'}"})
    space = SPACE.model_copy(update={"data": nowhere})
    with apart(tmp_path, space=space) as lacking, pytest.raises(DataError, match=r"^node .*images") as found:
        lacking.run([CHECK], lambda _: None)
    assert found.value.hint.startswith("put the data under the same path on every node")
    with apart(tmp_path, data="other") as other, pytest.raises(DataError, match="other images or labels than here"):
        other.run([CHECK], lambda _: None)


class NotStarting(Worker):
    """An actor that cannot be created."""

    def __init__(self, *_: object) -> None:
        raise ModuleNotFoundError("No module named 'autodistill'")


class NotStartingExecutor(RayExecutor):
    actor_class = NotStarting


@slow
def test_an_actor_that_cannot_start_ends_the_study(ray_cluster, tmp_path):
    executor = NotStartingExecutor(setup(tmp_path), address="local", workers=1)
    with executor, pytest.raises(StudyError, match=r"could not start: .*No module named 'autodistill'"):
        executor.run([CHECK], lambda _: None)


@slow
def test_a_cluster_without_a_gpu_is_refused_where_one_is_asked_for(ray_cluster):
    with pytest.raises(ConfigError, match="the cluster has no GPU"):
        cluster("local", "cuda", per_gpu=1, insecure=False)


@slow
def test_messages_of_ray_do_not_reach_stdout(ray_cluster, tmp_path, capsys):
    with apart(tmp_path):
        print("(raylet) a worker died")
    print("the result")
    out, err = capsys.readouterr()
    assert out == "the result\n"
    assert "a worker died" in err


@slow
def test_the_files_of_any_teacher_travel_to_a_node(node_cache, tmp_path):
    """Names with a question mark are files there too; records show the URIs of the driver."""
    networks = "from autodistill.models import build\n\n\ndef net(num_classes):\n    return build('resnet8:0.25', "
    (tmp_path / "nets.py").write_text(f"{networks}num_classes=num_classes, in_channels=1, image_size=8, seed=0)\n")
    module = build("resnet8:0.25", num_classes=10, in_channels=1, image_size=8, seed=1)
    torch.save(module.state_dict(), tmp_path / "w?.th")
    torch.save(module.state_dict(), tmp_path / "100%25.pt")
    (tmp_path / "names").write_text("\n".join("1032547698"))
    np.save(tmp_path / "z.npy", np.random.default_rng(0).normal(size=(1797, 10)))
    teachers = {
        "python": f"python:{tmp_path}/nets.py:net?weights={tmp_path}/w?.th%23raw&classes={tmp_path}/names",
        "file": f"file:{tmp_path}/100%25.pt?norm=none",
        "table": f"logits:{tmp_path}/z.npy?classes={tmp_path}/names",
        "both": "ensemble:file+table",
    }
    teachers = {name: uri if name == "both" else with_option(uri, "accept=yes") for name, uri in teachers.items()}
    data, tasks = load_data(SPACE.data), [CheckTask(name="python"), CheckTask(name="file"), CheckTask(name="table")]
    prints = {name: load(uri, data=data, study=teachers).fingerprint for name, uri in teachers.items()}
    known = {"teachers": teachers, "fingerprints": prints}
    with apart(tmp_path, perform, **known) as executor:
        records = executor.run(tasks, lambda _: None)
        (profiled,) = executor.run([ProfileTask(name="both")], lambda _: None)
    assert [(it.name, it.uri, it.fingerprint) for it in records] == [
        (name, teachers[name], prints[name]) for name in ("python", "file", "table")
    ]
    assert profiled.views_computed == 1
    copies = {path.name: path for path in (*node_cache.glob("given/*/*"), *node_cache.glob("given/*/*/*"))}
    assert {"nets.py", "w?.th", "100%25.pt", "names", "z.npy"} <= copies.keys()
    assert copies["100%25.pt"] == node_cache / "given" / prints["file"] / "0" / "100%25.pt"
    assert copies["100%25.pt"].read_bytes() == (tmp_path / "100%25.pt").read_bytes()


PARTS = """
import torch
from beside_of_a_test import images, soft


def net(num_classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, num_classes))


def shapes():
    return images(300)


def loss(student_logits, teacher_logits, labels, prepared, ramp, *, tau=2.0):
    hard = torch.nn.functional.cross_entropy(student_logits, labels)
    return hard + soft(student_logits, teacher_logits, tau), hard, hard
"""
BESIDE = """
import torch


def images(count):
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    images = torch.randint(0, 80, (count, 1, 8, 8), generator=draw) + 80 * labels[:, None, None, None]
    return [(image.byte(), int(label)) for image, label in zip(images, labels)]


def soft(logits, teacher_logits, tau):
    return torch.nn.functional.kl_div((logits / tau).log_softmax(1), (teacher_logits.float() / tau).softmax(1))
"""


@slow
@pytest.mark.parametrize("where", ["elsewhere", "beside the driver"])
def test_code_and_weights_of_student_method_and_dataset_travel_to_a_node(where, request, monkeypatch, tmp_path):
    """Names are relative to the folder of the driver, which is not that of the actor."""
    node_cache = request.getfixturevalue("node_cache")
    monkeypatch.chdir(tmp_path)
    Path("parts.py").write_text(PARTS)
    Path("beside_of_a_test.py").write_text(BESIDE)
    space = SPACE.model_copy(update={"data": DataSpec(name="python:parts.py:shapes", validation=60, test=60)})
    data, method = load_data(space.data), "python:parts.py:loss"
    torch.save({"1.weight": torch.ones(3, 64), "1.bias": torch.zeros(3)}, "w?.pt")
    student = student_record("python:parts.py:net?weights=w?.pt", data, space.student)
    teacher = load("python:parts.py:net?name=t&accept=yes", data=data)
    known = {
        "space": space,
        "student": student.name,
        "foreign": student.foreign,
        "teachers": {"t": teacher.uri},
        "fingerprints": {"t": teacher.fingerprint},
        "own_methods": {method: code_of(method)},
        "data": data.fingerprint,
    }
    task = run("travels", teacher="t", evaluate_on="validation+test")
    params = TrialParams(teacher="t", method=method, method_params={"tau": 3.0}, soft_weight=None)
    task = task.model_copy(update={"spec": task.spec.model_copy(update={"params": params})})
    shared = where == "beside the driver"
    with RayExecutor(setup(tmp_path, **known), address="local", workers=1, shared=shared, work=perform) as executor:
        (result,) = executor.run([task], lambda _: None)
    assert result.result.state == "complete", result.result.error
    assert len(result.result.curve) == 4
    metadata = safe_open(StudyFolder(tmp_path / "runs" / "study").weights("travels"), framework="pt").metadata()
    assert str(node_cache) not in "".join(metadata.values())
    copies = {path.name for path in node_cache.glob("given/**/*")}
    assert shared or {"parts.py", "beside_of_a_test.py", "w?.pt"} <= copies


@slow
def test_the_network_that_is_adapted_travels_to_a_node(node_here, tmp_path):
    """It is adapted there, kept by the driver, and is a member of an ensemble on a node that has nothing."""
    module = build("resnet8:0.25", num_classes=7, in_channels=1, image_size=8, seed=1)
    torch.save({"state_dict": module.state_dict()}, tmp_path / "seven?.pt")
    uri = f"adapt:file:{tmp_path}/seven%3F.pt?arch=resnet8:0.25&norm=none&accept=yes"
    data = load_data(SPACE.data)
    known = {
        "teachers": {"seven": uri, "weak": LADDER, "both": "ensemble:seven+weak"},
        "fingerprints": {},
        "sources": {uri: pretrained(uri, data=data).teacher.fingerprint},
    }
    with apart(tmp_path, perform, **known) as first:
        first.run([TrainTeacherTask(uri=uri), TrainTeacherTask(uri=LADDER)], lambda _: None)
    assert len(list((tmp_path / "cache").glob("adapted/*/teacher.safetensors"))) == 1
    for name in ("adapted", "ladder", "given"):
        shutil.rmtree(node_here / name, ignore_errors=True)
    with apart(tmp_path, perform, **known) as second:
        (record,) = second.run([CheckTask(name="seven")], lambda _: None)
        (profiled,) = second.run([ProfileTask(name="both")], lambda _: None)
    assert (record.name, record.uri) == ("seven", uri)
    assert profiled.views_computed == 1
    assert [path.name for path in node_here.glob("given/*/*/*")] == ["seven?.pt"]


@slow
def test_what_a_teacher_learns_from_or_continues_travels_to_a_node(node_here, tmp_path):
    """Checkpoint, teacher and logits come from the driver to a node that has nothing."""
    early, taught, cache = f"{LADDER}@6", "assistant:resnet8:0.3?teacher=weak", tmp_path / "cache"
    teachers = {"weak": LADDER, "early": early, "taught": taught}
    known = {"teachers": teachers, "sources": {taught: "what decides the weights of weak"}}

    def forget() -> None:
        for name in ("ladder", "assistants", "logits"):
            shutil.rmtree(node_here / name, ignore_errors=True)

    forget()
    with apart(tmp_path, perform, **known) as first:
        first.run([TrainTeacherTask(uri=early)], lambda _: None)
    (state,) = cache.glob("ladder/*/*@6.checkpoint")
    forget()
    epochs: list[Any] = []
    with apart(tmp_path, perform, **known) as second:
        second.run([TrainTeacherTask(uri=LADDER)], epochs.append)
    assert len(epochs) == 10
    assert state.exists()
    assert list(node_here.glob("ladder/*/*@6.checkpoint")), "the training continued from there"
    forget()
    with apart(tmp_path, perform, **known) as third:
        third.run([TrainTeacherTask(uri=taught)], lambda _: None)
        (record,) = third.run([CheckTask(name="taught")], lambda _: None)
    assert (record.name, record.uri) == ("taught", taught)
    assert len(list(cache.glob("assistants/*/resnet8-0.3.safetensors"))) == 1
    assert len(list(cache.glob("logits/*/*.safetensors"))) == 10 + 1 + 1, "views, and two validation splits"
