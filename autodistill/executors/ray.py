"""Run tasks on a Ray cluster: actors, each with a core or a part of a GPU, and this process as the driver.

Nodes share nothing but the data, which lie under the same path on every node. The user's code, weights, logits and
checkpoints travel as bytes. Each file has a name below the study folder (`study/...`) or the cache folder
(`cache/...`). The driver keeps every file, so that a removed node takes no file with it. Nodes that see the folders of
the driver use them.
"""

import contextlib
import importlib
import ipaddress
import logging
import os
import platform
import queue
import secrets
import shutil
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from autodistill import __version__
from autodistill.data.pairs import code_place
from autodistill.data.views import View
from autodistill.errors import AutodistillError, ConfigError, DataError, StudyError
from autodistill.executors.base import (
    STARTED,
    AgreementTask,
    Done,
    Executor,
    LogitsTask,
    MeasureStudentTask,
    OnEvent,
    Result,
    Setup,
    Slot,
    Stopped,
    Task,
    TaskQueue,
    TrainTask,
    TrainTeacherTask,
    describe,
)
from autodistill.executors.local import keep_freed_memory
from autodistill.executors.worker import Work, WorkerContext, end_of, memory_share, perform, teacher_path
from autodistill.local_files import local_path, use_copies
from autodistill.logit_cache import PLAIN, VALIDATION, is_whole, logits_name, training_part
from autodistill.methods import OWN, check_code
from autodistill.models.uri import files_of, parse
from autodistill.records import TRAINED_HERE, KeptResult, Note, TeacherRecord
from autodistill.store import StudyFolder, cache_root, digest, write_bytes
from autodistill.teachers import assistants, computed_as, is_ensemble, members_of
from autodistill.teachers.adaptation import SCHEME as ADAPT
from autodistill.teachers.ladder import SCHEME as LADDER
from autodistill.teachers.ladder import checkpoints_of
from autodistill.usercode import source_files

SEND_EVERY_S = 50.0
"""Time between two checkpoints of a task that the driver receives. Runs write one every 5 s, at the end of an epoch: a
removed node loses at most 60 s where an epoch takes less than 5 s."""
LOOK_S = 1.0
"""Longest wait for messages before everything else is looked at."""
START_S = 600.0
"""Longest time without any actor: a node may be starting, loading data or installing packages."""
RETURN_S = 60.0
"""An actor that is lost and has not returned after this time has died, although its node is alive."""
CONNECT_S = 10.0
"""Longest wait for an answer from a cluster."""
CLOSE_S = 5.0
"""Longest wait for actors that remove their files."""
MARKER = ".autodistill-driver"
"""File that the driver writes into its folders. A node that sees it shares the folder."""


class File(NamedTuple):
    """A file that a task has written."""

    name: str
    content: bytes


class Node(NamedTuple):
    """What an actor tells about itself and its node."""

    node: str
    """Ray's identifier of the node."""
    process: str
    """A random name of the actor's process; a restarted actor has another."""
    host: str
    torch: str
    device: str
    computed_as: str
    """How logits are computed there."""
    shares: tuple[str, ...]
    """Folders of the driver that the node sees: `study`, `cache`."""
    missing: tuple[str, ...]
    """Names of the files that the user named and that are not there, but for code."""


def _path(setup: Setup, name: str) -> Path:
    """Return the path of a file: `study/...` or `cache/...`."""
    place, _, below = name.partition("/")
    return Path(setup.folder if place == "study" else setup.cache) / below


class Given(NamedTuple):
    """A file or folder that the user named. Only the driver is sure to have it."""

    name: str
    """As the user wrote it."""
    original: Path
    copy: str
    """Path of its copy, relative to the cache folder."""
    files: dict[str, Path]
    """Path of the original of each of its files, by the path of the copy relative to the cache folder."""
    code: dict[str, bytes] = {}
    """Content of the files of Python code, which a node needs from the start."""


def given_files(setup: Setup) -> tuple[Given, ...]:
    """Return the files that student, teachers, methods and dataset need, but for those of images and labels."""
    uris = {uri.removeprefix(ADAPT): setup.sources.get(uri, "") for uri in setup.teachers.values()}
    uris |= {setup.teachers[name]: fingerprint for name, fingerprint in setup.fingerprints.items()}
    if setup.foreign is not None:
        uris[setup.foreign.uri] = setup.foreign.fingerprint
    found = []
    for uri, fingerprint in uris.items():
        for number, (name, files) in enumerate(files_of(uri).items() if fingerprint else ()):
            folder, original = f"given/{fingerprint}/{number}", local_path(name).absolute()
            copies = {f"{folder}/{path}": it for path, it in files.items()}
            found.append(Given(name, original, f"{folder}/{original.name}", copies))
    targets = [parse(uri).target for uri in uris if uri.startswith("python:")]
    targets += [name.removeprefix(OWN) for name in setup.own_methods]
    for name in dict.fromkeys([*(it.rpartition(":")[0] for it in targets), code_place(setup.space.data)]):
        if sources := source_files(name):
            folder, original = f"given/{digest(sources)}", local_path(name).resolve()
            code = {f"{folder}/{path}": content for path, content in sources.items()}
            files = {f"{folder}/{path}": original.parent / path for path in sources}
            found.append(Given(name, original, f"{folder}/{original.name}", files, code))
    return tuple(found)


def _sees(folder: Path, token: str) -> bool:
    """Return whether a folder of the driver is visible here."""
    try:
        return (folder / MARKER).read_text() == token
    except OSError:
        return False


def _stamp(path: Path | None) -> tuple[int, int] | None:
    """Return what tells versions of a file apart: a clock is too coarse for two writes in a row."""
    try:
        found = path.stat() if path is not None else None
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns) if found else None


def _own_files(task: Task, setup: Setup, shares: Sequence[str]) -> list[str]:
    """Return the names of the files that a task resumes from and writes: its checkpoint first, a run's result last.

    Files in folders that driver and node share are left out.
    """
    if isinstance(task, TrainTask) and "study" not in shares:
        key = task.key
        return [f"study/checkpoints/{key}.pt", f"study/weights/{key}.safetensors", f"study/results/{key}.json"]
    if isinstance(task, TrainTeacherTask) and "cache" not in shares:
        path = teacher_path(task.uri, setup, root="cache")
        return [path.with_suffix(".checkpoint").as_posix(), path.with_suffix(".head").as_posix(), path.as_posix()]
    return []


def _teachers_and_views(task: Task, setup: Setup) -> tuple[Sequence[str], Sequence[int]]:
    """Return the teachers that a task uses, and the views whose logits it reads or computes."""
    if isinstance(task, TrainTask):
        name = task.spec.params.teacher
        return [name] if name else [], range(min(task.spec.last_epoch, setup.views))
    if isinstance(task, TrainTeacherTask):
        return assistants.needs(task.uri, setup.teachers), range(assistants.views_of(setup.space))
    if isinstance(task, AgreementTask):
        return task.names, [0]
    if isinstance(task, MeasureStudentTask):
        return [], []
    return [task.name], [task.view if isinstance(task, LogitsTask) else 0]


class Worker:
    """The actor: does tasks on a node. Folders whose marker contains `token` are those of the driver."""

    def __init__(self, setup: Setup, token: str, work: Work, given: Sequence[Given] = ()) -> None:
        keep_freed_memory()
        self._work, self._process = work, secrets.token_hex(8)
        self._stop = threading.Event()
        self._messages: queue.Queue[object] = queue.Queue()
        folders = {"study": setup.folder, "cache": setup.cache}
        self._shares = tuple(place for place, folder in folders.items() if _sees(Path(folder), token))
        cache = Path(setup.cache) if "cache" in self._shares else cache_root()
        self._own = cache / "ray" / token
        folder = Path(setup.folder) if "study" in self._shares else self._own / Path(setup.folder).name
        self._missing, places = list[str](), dict[str, Path]()
        for it in given:
            sees = "cache" in self._shares and all(original.exists() for original in it.files.values())
            places[it.name] = it.original if sees else cache / it.copy
            missing = [name for name in it.files if not sees and not (cache / name).exists()]
            self._missing += [f"cache/{name}" for name in missing if name not in it.code]
            for name in it.code.keys() & missing:
                write_bytes(cache / name, it.code[name])
        use_copies(places)
        share = setup.memory_share
        if setup.device.startswith("cuda") and share < 1:
            total = torch.cuda.mem_get_info(0)[1]
            share = memory_share(total, total, workers=round(1 / share))
        here = {"folder": str(folder), "cache": str(cache), "memory_share": share}
        self._setup = setup.model_copy(update=here)
        self._context = WorkerContext(
            self._setup, on_event=self._messages.put, stopping=self._stop.is_set, on_file=self._send_logits
        )

    def describe(self, version: str) -> Node:
        """Describe this actor, unless the node has other data, methods or another version than the driver."""
        import ray

        setup, host, device = self._setup, platform.node(), torch.device(self._setup.device)
        if version != __version__:
            raise ConfigError(
                f"node {host}: has kd-autodistill {__version__}, the driver has {version}",
                "install the same version on every node",
            )
        check_methods(setup, host)
        try:
            data = self._context.study_data.fingerprint
        except AutodistillError as error:
            raise DataError(
                f"node {host}: {error.message}", f"put the data under the same path on every node. {error.hint}"
            ) from error
        if data != setup.data:
            raise DataError(
                f"node {host}: other images or labels than here under {setup.space.data.name!r}",
                "put the same data under the same path on every node",
            )
        return Node(
            node=ray.get_runtime_context().get_node_id(),
            process=self._process,
            host=host,
            torch=torch.__version__,
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
            computed_as=computed_as(device),
            shares=self._shares,
            missing=tuple(self._missing),
        )

    def perform(self, task: Task, files: Mapping[str, Any]) -> Iterator[object]:
        """Do a task; yield its messages and the files that it writes.

        `files` has references to the content of files by name. Files of the study replace older files.
        """
        import ray

        yield STARTED
        for name, content in files.items():
            path = _path(self._setup, name)
            if name.startswith("study/") or not path.exists():
                write_bytes(path, ray.get(content))
        names = _own_files(task, self._setup, self._shares)
        checkpoint = _path(self._setup, names[0]) if names else None
        # The time stamp is read before the task starts: a checkpoint that is written at once is new too.
        sent, stamp, over = time.monotonic(), _stamp(checkpoint), False
        thread = threading.Thread(target=self._perform, args=(task,), daemon=True)
        thread.start()
        while not over:
            message = None
            with contextlib.suppress(queue.Empty):
                message = self._messages.get(timeout=LOOK_S)
            over = isinstance(message, Done)
            due = over or time.monotonic() - sent >= SEND_EVERY_S
            if due and _stamp(checkpoint) not in (None, stamp):
                sent, stamp = time.monotonic(), _stamp(checkpoint)
                yield from self._read(names[:1])
            if over:
                thread.join()
                yield from self._read(names[1:])
            if message is not None:
                yield message

    def stop(self) -> None:
        """Make the task that is running stop at the end of its epoch."""
        self._stop.set()

    def close(self) -> None:
        """Remove the files of the study from this node."""
        use_copies({})
        shutil.rmtree(self._own, ignore_errors=True)

    def _perform(self, task: Task) -> None:
        try:
            self._messages.put(end_of(task, self._context, self._work))
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            self._messages.put(Done(error=StudyError(f"node {platform.node()}: {reason}, while {describe(task)}")))
            raise

    def _send_logits(self, path: Path) -> None:
        """Send logits as soon as they are written: the driver gives them to other nodes."""
        if "cache" not in self._shares:
            self._messages.put(File(f"cache/{path.relative_to(self._setup.cache).as_posix()}", path.read_bytes()))

    def _read(self, names: Iterable[str]) -> Iterator[File]:
        for name in names:
            if (path := _path(self._setup, name)).exists():
                yield File(name, path.read_bytes())


@dataclass
class _Actor(Slot):
    handle: Any
    described: Any = None
    """Reference to its `Node` while it starts."""
    node: Node | None = None
    messages: Any = None
    """Generator of the messages of its task."""
    started: bool = False
    lost: Node | None = None
    """Where it was lost during a task. Whether its process died is known when it is back, or its node is gone."""
    lost_at: float = 0.0
    sent: set[str] = field(default_factory=set)
    """Files of the cache that are on its node."""


class RayExecutor(Executor):
    """An `Executor` of actors on a Ray cluster.

    Args:
        setup: the study; `setup.device` is `cuda` for actors that each have `setup.memory_share` of a GPU.
        address: of the cluster, as for `connected`, which raises errors.
        workers: number of actors.
        shared: whether actors use the folders of the driver where they see them.
        stop: makes `run` end soon. Signal handlers may set it.
        work: does a task in an actor; an importable function.
    """

    actor_class = Worker

    def __init__(
        self,
        setup: Setup,
        *,
        address: str,
        workers: int,
        shared: bool = True,
        stop: threading.Event | None = None,
        work: Work = perform,
    ) -> None:
        self._ray, self.workers = connected(address), workers
        self._setup, self._stop = setup, stop or threading.Event()
        token = secrets.token_hex(8)
        self._markers = [Path(place) / MARKER for place in (setup.folder, setup.cache) if shared]
        for marker in self._markers:
            with contextlib.suppress(AutodistillError):  # a read-only cache is not shared
                write_bytes(marker, token.encode())
        gpu = setup.device.startswith("cuda")
        needs = {"num_gpus": setup.memory_share, "num_cpus": 0} if gpu else {"num_cpus": 1}
        remote = self._ray.remote(self.actor_class).options(max_restarts=-1, max_concurrency=2, **needs)
        given = given_files(setup)
        self._actors = [_Actor(remote.remote(self._setup, token, work, given)) for _ in range(self.workers)]
        for actor in self._actors:
            self._await(actor)
        self._deaths: list[Task] = []
        self._fingerprints = dict(setup.fingerprints)
        self._given = {f"cache/{name}": original for it in given for name, original in it.files.items()}
        self._references: dict[str, Any] = {}
        self._seen = time.monotonic()
        """When an actor was there last."""
        self._leaving = contextlib.ExitStack()
        self.nodes: Counter[str] = Counter()
        """Actors that have started, by the device of their node."""

    def run(self, tasks: Sequence[Task], on_event: OnEvent, *, meanwhile: Sequence[Task] = ()) -> list[Result]:
        """See `Executor.run`."""
        tasks_left = TaskQueue(tasks, meanwhile, self._actors, self._deaths)
        while not tasks_left.is_complete:
            self._feed(tasks_left)
            for actor, starts in self._ready():
                if starts:
                    self._begin(actor, on_event)
                else:
                    self._receive(actor, tasks_left, on_event)
            for actor in self._actors:
                if actor.lost is not None:
                    self._settle(actor, actor.lost, tasks_left, on_event)
        return tasks_left.in_order()

    def __enter__(self) -> "RayExecutor":
        # Ray prints its own messages to stdout, which is for the result.
        self._leaving.enter_context(contextlib.redirect_stdout(sys.stderr))
        return self

    def __exit__(self, *_: object) -> None:
        with self._leaving:
            closing = [actor.handle.close.remote() for actor in self._actors if actor.node is not None]
            if closing:
                self._ray.wait(closing, num_returns=len(closing), timeout=CLOSE_S)
            for actor in self._actors:
                self._ray.kill(actor.handle)
            for marker in self._markers:
                with contextlib.suppress(OSError):
                    marker.unlink(missing_ok=True)

    def _await(self, actor: _Actor) -> None:
        """Ask an actor for its description, which it gives when it has started, or started again."""
        actor.node = None
        actor.described = actor.handle.describe.options(max_task_retries=-1).remote(__version__)

    def _ready(self) -> list[tuple[_Actor, bool]]:
        """Wait for a message; return the actors that have one, and whether it is their description."""
        pending = {it: actor for actor in self._actors for it in (actor.described, actor.messages) if it is not None}
        ready, _ = self._ray.wait(list(pending), num_returns=len(pending), timeout=0)
        if not ready:
            ready, _ = self._ray.wait(list(pending), timeout=LOOK_S)
        return [(pending[it], it is pending[it].described) for it in ready]

    def _begin(self, actor: _Actor, on_event: OnEvent) -> None:
        """Check an actor that has started."""
        reference, actor.described = actor.described, None
        node: Node = self._got(reference)
        if actor.lost is not None and actor.lost.process == node.process:
            # The network failed, and the process is still at work on its task: it must not write any more.
            self._ray.kill(actor.handle, no_restart=False)
            self._await(actor)
            return
        actor.node, actor.sent = node, set()
        if self.nodes and node.device not in self.nodes:
            text = f"the cluster mixes {node.device} with {', '.join(self.nodes)}: results differ"
            on_event(Note(text=text, warning=True))
        self.nodes[node.device] += 1

    def _feed(self, tasks_left: TaskQueue) -> None:
        """Give every free actor a task, as long as there are any; on a stop, make the others stop after their epoch.

        Raises:
            StudyError: there has been no actor for `START_S`.
            Stopped: all have stopped.
        """
        if any(actor.node is not None for actor in self._actors):
            self._seen = time.monotonic()
        elif time.monotonic() - self._seen > START_S:
            raise StudyError(
                f"no actor has started within {START_S:g} s", "`ray status` shows the resources that are missing"
            )
        busy = [actor for actor in self._actors if actor.messages is not None]
        if self._stop.is_set() and not busy:
            raise Stopped
        if self._stop.is_set() and not tasks_left.stopped:
            tasks_left.stopped = True
            for actor in busy:
                actor.handle.stop.remote()
        for actor in self._actors:
            if actor.node is not None and actor.task is None and (task := tasks_left.assign(actor)) is not None:
                actor.started = False
                stream = actor.handle.perform.options(num_returns="streaming", max_task_retries=0)
                actor.messages = stream.remote(task, self._files_for(task, actor.node, actor.sent))

    def _receive(self, actor: _Actor, tasks_left: TaskQueue, on_event: OnEvent) -> None:
        try:
            message = self._got(next(actor.messages))
        except self._ray.exceptions.RayError:
            actor.lost, actor.lost_at, actor.messages = actor.node, time.monotonic(), None
            self._await(actor)
            return
        if message == STARTED:
            actor.started = True
        elif isinstance(message, File):
            self._keep(actor, message)
        elif isinstance(message, Done):
            task, actor.messages = actor.task, None
            if isinstance(message.result, TeacherRecord):
                self._fingerprints[message.result.name] = message.result.fingerprint
            if isinstance(message.result, KeptResult) and isinstance(task, TrainTask) and task.spec.until is None:
                StudyFolder(Path(self._setup.folder)).checkpoint(task.key).unlink(missing_ok=True)
            tasks_left.end(actor, message)
        else:
            on_event(message)

    def _got(self, reference: Any) -> Any:
        """Return the value of a reference; raise the actor's error, or a RayError where the actor was lost."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except errors.RayTaskError as error:
            if isinstance(error.cause, AutodistillError):
                raise error.cause from error
            last_line = str(error).strip().rpartition("\n")[2]  # it names the exception
            raise StudyError(f"an actor failed: {last_line}", "Ray's logs on its node say more") from error
        except errors.RayActorError as error:
            if not error.actor_init_failed:
                raise
            last_line = str(error).strip().rpartition("\n")[2]
            raise StudyError(
                f"an actor could not start: {last_line}",
                "every node needs the same version of kd-autodistill, installed where Ray's Python finds it",
            ) from error

    def _settle(self, actor: _Actor, node: Node, tasks_left: TaskQueue, on_event: OnEvent) -> None:
        """Put the task of a lost actor back as soon as it is known what happened.

        The death of a process counts as a death of its task. A removed node or a failed network does not.
        """
        task = actor.task
        assert task is not None
        removed = node.node not in {it["NodeID"] for it in self._ray.nodes() if it["Alive"]}
        if actor.node is None and not removed and time.monotonic() - actor.lost_at <= RETURN_S:
            return
        actor.lost = None
        if actor.started and not removed:
            self._deaths.append(task)
        what = f"node {node.host} was removed" if removed else f"an actor on {node.host} was lost"
        then = "another continues with it" if actor.place is not None else "it is done again when it is needed"
        deaths = f"{self._deaths.count(task)} actors were lost while {describe(task)}, the last on {node.host}"
        error = StudyError(deaths, "Ray's logs on that node say more")
        tasks_left.lose(actor, f"{what} while {describe(task)}; {then}", error, on_event)

    def _keep(self, actor: _Actor, file: File) -> None:
        """Keep a file that an actor has sent; of logits, the first copy counts."""
        path = _path(self._setup, file.name)
        if file.name.startswith("cache/"):
            actor.sent.add(file.name)
        if file.name.startswith("cache/logits/") and is_whole(path):
            return
        write_bytes(path, file.content)
        self._references.pop(file.name, None)

    def _files_for(self, task: Task, node: Node, sent: set[str]) -> dict[str, Any]:
        """Return references to the files that a task reads and that its node lacks."""
        found: dict[str, Any] = {}
        for name in self._needed(task, node):
            path = self._given.get(name) or _path(self._setup, name)
            if name in sent or not path.exists():
                continue
            found[name] = self._references.get(name) or self._ray.put(path.read_bytes())
            if name.startswith("cache/"):
                self._references[name] = found[name]
                sent.add(name)
        return found

    def _earlier_checkpoints(self, task: Task) -> Iterator[str]:
        """Yield the names of the checkpoints from which the training of a ladder teacher may continue."""
        if isinstance(task, TrainTeacherTask) and task.uri.startswith(LADDER):
            for path in checkpoints_of(teacher_path(task.uri, self._setup)).values():
                yield f"cache/{path.relative_to(self._setup.cache).as_posix()}"

    def _needed(self, task: Task, node: Node) -> Iterator[str]:
        """Yield the names of files that a task reads."""
        setup, seen = self._setup, self._setup.space.data
        yield from node.missing
        yield from _own_files(task, setup, node.shares)
        if "cache" in node.shares:
            return
        yield from self._earlier_checkpoints(task)
        names, views = _teachers_and_views(task, setup)
        teachers = list(names)
        for name in names:
            if is_ensemble(setup.teachers[name]):
                teachers += members_of(setup.teachers[name], setup.teachers)
        for uri in {setup.teachers[name] for name in teachers}:
            if uri.startswith(TRAINED_HERE):
                yield teacher_path(uri, setup, root="cache").as_posix()
        parts = [training_part(View(seen.view_seed, seen.crop, seen.flip), number) for number in views]
        for fingerprint in (self._fingerprints[name] for name in teachers if name in self._fingerprints):
            for part in (VALIDATION, PLAIN, *parts):
                how = {"computed_as": node.computed_as, "version": node.torch}
                yield f"cache/{logits_name(fingerprint, setup.data, part, **how)}"


def connected(address: str, *, insecure: bool = False) -> Any:
    """Return the module `ray`, connected to a cluster. An existing connection is kept.

    Args:
        address: `auto`: the cluster of this machine; `local`: a cluster of its own; or HOST:PORT.
        insecure: Whether a cluster on a network without token authentication is accepted.

    Raises:
        ConfigError: Ray is not installed, there is no cluster, or it is open to the network.
    """
    if address == "local" and "ray" not in sys.modules:
        # A cluster of its own listens on all addresses of this machine. Ray reads these variables when it is imported.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError as error:
        raise ConfigError(f"--ray {address}: Ray is not installed", "pip install 'kd-autodistill[ray]'") from error
    if address.startswith("ray://"):
        raise ConfigError(
            f"--ray {address}: Ray's client mode cannot stream the messages of actors",
            "run this command on a node of the cluster with --ray auto, or submit it with `ray job submit`",
        )
    if not ray.is_initialized():
        _connect(ray, address)
        try:
            if not insecure:
                check_secure(address, ray.nodes())
        except ConfigError:
            ray.shutdown()
            raise
    return ray


def _connect(ray: Any, address: str) -> None:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    own: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        if address not in ("auto", "local"):
            host, _, port = address.rpartition(":")
            if not host or not port.isdecimal():
                raise ConfigError(
                    f"--ray {address}: is no address", "give auto, local or HOST:PORT, such as 10.0.0.1:6379"
                )
            # Ray itself tries for minutes.
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except OSError as error:
        first_line = str(error).partition("\n")[0]
        raise ConfigError(
            f"--ray {address}: no cluster there ({first_line})",
            "start a cluster with `ray start --head`, or use --ray local",
        ) from error
    except ray.exceptions.AuthenticationError as error:
        raise ConfigError(
            f"--ray {address}: the cluster refuses the token of this command",
            "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, as on the nodes of the cluster",
        ) from error
    except RuntimeError as error:
        if "ersion mismatch" not in str(error):
            raise
        lines = " ".join(str(error).split())
        raise ConfigError(f"--ray {address}: {lines}", "use the same Python and Ray on every node") from error


def check_secure(address: str, nodes: Iterable[Mapping[str, Any]]) -> None:
    """Raise a ConfigError where a cluster with these `ray.nodes()` listens on a network and asks for no token."""
    found = sorted({str(node["NodeManagerAddress"]) for node in nodes if node.get("Alive", True)})
    open_to_network = [it for it in found if not _is_loopback(it)]
    if open_to_network and os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        raise ConfigError(
            f"--ray {address}: the cluster listens on {', '.join(open_to_network)} without token authentication: "
            "anyone who reaches a port can run code there",
            "set RAY_AUTH_MODE=token on every node and here (docs.ray.io, token authentication), or accept the risk "
            "in a closed network with --insecure",
        )


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def check_methods(setup: Setup, host: str) -> None:
    """Raise a ConfigError where a module of the user's methods is missing on this node, `host`, or differs."""
    for name in setup.own_methods:
        try:
            check_code(name, setup.own_methods)
        except ConfigError as error:
            raise ConfigError(
                f"node {host}: {error.message}",
                "install the same module on every node, or name a file, python:FILE.py:FUNCTION, which travels",
            ) from error


def slots_of(resources: Mapping[str, float], *, gpu: bool, per_gpu: int) -> int:
    """Return how many actors a cluster has room for; raise a ConfigError where it has no GPU."""
    if not gpu:
        return max(1, int(resources.get("CPU", 1)))
    count = int(resources.get("GPU", 0))
    if not count:
        raise ConfigError("--device cuda: the cluster has no GPU", "use --device cpu, or add a node with a GPU")
    return count * per_gpu
