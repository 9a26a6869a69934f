"""Kill workers, coordinators and nodes of small real studies, fill disks, damage files; report what is lost or wrong.

    python tests/bench/faults.py [--check] [--kills 30] [--seed 0]
    python tests/bench/faults.py --scenario workers    # or other names of `SCENARIOS`; without them all

Every study trains two teachers and tiny students, on two local processes or two actors of a Ray cluster. Each study
must end with the same `study.json` as an undisturbed study, apart from timing, environment, found runs and the command;
it must spend its budget exactly and train no run twice. The script ends only processes that it has started: it finds
them by a variable in their environment, or as descendants of its own commands. `disk` and `cache` mount file systems in
a mount namespace of their own and are skipped where that is not allowed.

Last runs of all scenarios, 26 November 2026, seed 0: 60 kills of workers, 10 of coordinators, 2 removed nodes, 11 full
disks, 3 read-only caches, 77 damaged files; nothing wrong. Figures of all scenarios are in README.md.
"""

import argparse
import contextlib
import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

NAME = "faults"
VARIABLE = "AUTODISTILL_FAULTS"
SETTINGS = ("data.train=400", "training.epochs=9", "training.rung_epochs=3", "ladder.epochs=12")
PER_STUDY = 5
"""Most kills of one study."""
LIMIT_S = 400.0
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
SMALL = "24m"
"""Size of a small disk."""
FREE_KB = (0, 60, 200, 500)
"""Free space at each start of the command on a full disk."""


# The study, in a process of its own


def drive(kind: str, address: str) -> int:
    """Run the study in this folder to its end; print what happens."""
    from autodistill.errors import AutodistillError
    from autodistill.executors import base
    from autodistill.records import Event, Note, RunEnded
    from autodistill.study import resolve, run_study
    from autodistill.study.resolve import SearchOptions
    from autodistill.study.run import local_executor

    def say(event: Event) -> None:
        if isinstance(event, Note):
            print(f"{time.time():.2f} note {event.text}", flush=True)
        if isinstance(event, RunEnded) and not event.reused:
            print(f"{time.time():.2f} trained {event.record.run}", flush=True)

    def on_ray(spec: Any) -> Any:
        from autodistill.executors import ray

        return ray.RayExecutor(spec.setup, address=address, workers=2, shared=address == "local")

    # Random kills may hit a task three times, which says something about the task only where kills are not random.
    base.MOST_DEATHS = 10**6
    options = SearchOptions(
        student="resnet8:0.25", space="smoke", budget="11", workers=2, study=NAME, overrides=SETTINGS
    )
    try:
        run_study(resolve(options), say, executor_for=on_ray if kind == "ray" else local_executor)
    except AutodistillError as error:
        print(f"error: {error.message} | {error.hint}", flush=True)
        return error.exit_code
    return 0


def cluster(place: Path) -> int:
    """Run a head without CPUs and two nodes with a cache each; `remove-N` replaces node N."""
    from ray.cluster_utils import Cluster

    def added(number: int, generation: int) -> Any:
        own = {"AUTODISTILL_CACHE": str(place / f"cache-{number}-{generation}")}
        return cluster.add_node(**NODE, env_vars=own)

    head = {**NODE, "num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        nodes = [added(0, 0), added(1, 0)]
        (place / "address").write_text(cluster.address)
        generation = 0
        while not (place / "stop").exists():
            for number in (0, 1):
                if (place / f"remove-{number}").exists():
                    cluster.remove_node(nodes[number], allow_graceful=False)
                    (place / f"remove-{number}").rename(place / f"removed-{number}")
                    generation += 1
                    nodes[number] = added(number, generation)
            time.sleep(0.05)
    finally:
        cluster.shutdown()
    return 0


# Commands and their processes


class Command:
    """A command of this script in a folder, with its output.

    Args:
        place: working folder.
        name: of the log.
        arguments: of this script.
        cache: the user's cache folder.
    """

    running: ClassVar[list["Command"]] = []

    def __init__(self, place: Path, name: str, *arguments: str, cache: Path) -> None:
        self.running[:] = [it for it in self.running if it.process.poll() is None]
        self.log, self.token = place / f"{name}.log", secrets.token_hex(8)
        environment = {**os.environ, VARIABLE: self.token, "AUTODISTILL_CACHE": str(cache)}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, __file__, *arguments], cwd=place, env=environment, stdout=log, stderr=log
            )
        self.running.append(self)

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def processes(self) -> set[int]:
        """Return the other processes of this command: they carry its variable, or descend from it."""
        table = dict(_table())
        found = {pid for pid in table if f"{VARIABLE}={self.token}".encode() in _read(pid, "environ")}
        found |= {self.process.pid}
        while more := {pid for pid, parent in table.items() if parent in found} - found:
            found |= more
        return found - {self.process.pid}

    def workers(self) -> list[int]:
        """Return the worker processes, and the server process that local workers are forked from."""
        names = (b"forkserver", b"spawn_main", b"ray::Worker")
        return sorted(it for it in self.processes() if any(name in _read(it, "cmdline") for name in names))

    def end(self, limit_s: float = LIMIT_S) -> int:
        """Wait for the exit code; end a command that takes too long."""
        try:
            return self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return 124

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def left(self, within_s: float = 60.0) -> list[int]:
        """Return the workers that have not ended in time after the command.

        End all processes that are left. A driver that is killed while it starts Ray can leave agents of Ray's own.
        """
        until = time.monotonic() + within_s
        while (found := self.workers()) and time.monotonic() < until:
            time.sleep(0.2)
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return found


def _table() -> Iterator[tuple[int, int]]:
    """Yield the number of each process and of its parent; processes that wait to be reaped are left out."""
    for entry in Path("/proc").glob("[0-9]*"):
        state, parent = ([*_read(int(entry.name), "stat").rpartition(b")")[2].split(), b"Z", b"0"])[:2]
        if state != b"Z":
            yield int(entry.name), int(parent)


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


# What must hold


class Lab(NamedTuple):
    """What scenarios share."""

    root: Path
    chance: random.Random
    kills: int
    kinds: tuple[str, ...]
    """Executors: `local`, `ray`."""
    calm: dict[str, Any]
    """Record of an undisturbed study."""
    calm_s: float
    cache: Path
    """With the teachers and logits of that study."""

    def place(self, name: str) -> Path:
        found = self.root / name
        found.mkdir()
        return found

    def warm(self, place: Path) -> Path:
        """Return a copy of the cache with teachers and logits."""
        return Path(shutil.copytree(self.cache, place / "cache"))


def started(
    place: Path, name: str, *, kind: str = "local", cache: Path | None = None, address: str = "local"
) -> Command:
    return Command(place, name, "--drive", kind, "--address", address, cache=cache or place / "cache")


def record_in(place: Path) -> dict[str, Any]:
    found = json.loads((place / "runs" / NAME / "study.json").read_text())
    return {key: value for key, value in found.items() if key not in ("timing", "environment", "found", "command")}


def wrong(lab: Lab, place: Path, command: Command, *, code: int = 0, again: bool = False) -> list[str]:
    """Return what is wrong with a study that has ended; `again`: runs may be trained twice."""
    if code:
        return [f"{place.name}: ended with {code}: {command.said[-1500:]}"]
    from autodistill.records import read_study
    from autodistill.store import differences

    lines = [f"another record than without faults: {it}" for it in differences(lab.calm, record_in(place))][:5]
    record = read_study(place / "runs" / NAME / "study.json")
    spent = sum(run.spent_epochs for run in record.runs())
    if not spent == record.spent_epochs <= record.plan.total_epochs:
        lines.append(f"the budget of {record.plan.total_epochs} epochs: {spent} spent, {record.spent_epochs} counted")
    words = [line.split() for log in place.glob("*.log") for line in log.read_text(errors="replace").splitlines()]
    trained = Counter(line[2] for line in words if line[1:2] == ["trained"])
    lines += [f"{run} was trained {count} times" for run, count in trained.items() if count > 1 and not again]
    return [f"{place.name}: {line}" for line in lines]


def refused(command: Command, code: int, *words: str) -> list[str]:
    """Return what is wrong with how a command ended that could not go on; its error must contain one of the words."""
    said = command.said
    if code not in (1, 2) or "Traceback" in said or not any(word in said for word in words):
        return [f"{command.log}: ended with {code}: {said[-1500:]}"]
    print(f"    {said.splitlines()[-1][:160]}")
    return []


def wait_for(condition: Callable[[], object], command: Command, limit_s: float = 120.0) -> bool:
    """Wait until a condition holds; return False where the command ends before that, or time is up."""
    until = time.monotonic() + limit_s
    while not condition():
        if command.process.poll() is not None or time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


# Scenarios: each returns what is wrong


def workers(lab: Lab) -> list[str]:
    """SIGKILL workers at random moments."""
    found = []
    for kind in lab.kinds:
        killed, studies, begun = 0, 0, time.monotonic()
        while killed < lab.kills and not found:
            place = lab.place(f"workers-{kind}-{studies}")
            command, mine = started(place, "study", kind=kind), 0
            following = time.monotonic() + 3 + lab.chance.expovariate(1 / (0.15 * lab.calm_s))
            while command.process.poll() is None and time.monotonic() - begun < LIMIT_S * (studies + 1):
                there = command.workers()
                if there and time.monotonic() > following and mine < PER_STUDY and killed < lab.kills:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(lab.chance.choice(there), signal.SIGKILL)
                        mine, killed = mine + 1, killed + 1
                    following = time.monotonic() + lab.chance.expovariate(1 / (0.15 * lab.calm_s))
                time.sleep(0.05)
            studies += 1
            found += wrong(lab, place, command, code=command.end(1)) + stayed(command, place)
        print(f"  {kind}: {killed} workers killed in {studies} studies, {time.monotonic() - begun:.0f} s", flush=True)
    return found


def coordinator(lab: Lab) -> list[str]:
    """SIGKILL the coordinator at random moments and give the same command again."""
    found = []
    for kind in lab.kinds:
        place, begun, times = lab.place(f"coordinator-{kind}"), time.monotonic(), []
        for number in range(max(1, lab.kills // 6)):
            command = started(place, f"study-{number}", kind=kind)
            times.append(lab.calm_s * lab.chance.uniform(0.3, 0.9))
            if command.process.poll() is None and command_outlasts(command, times[-1]):
                command.kill()
            found += stayed(command, place)
        command = started(place, "last", kind=kind)
        found += wrong(lab, place, command, code=command.end()) + stayed(command, place)
        shown = ", ".join(f"{it:.0f}" for it in times)
        print(f"  {kind}: killed after {shown} s; {time.monotonic() - begun:.0f} s", flush=True)
    return found


def command_outlasts(command: Command, seconds: float) -> bool:
    try:
        command.process.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


def stayed(command: Command, place: Path) -> list[str]:
    """Return a line where workers of a command outlive it."""
    left = command.left()
    return [f"{place.name}: {len(left)} workers stayed"] if left else []


def node(lab: Lab) -> list[str]:
    """Remove the node that holds the only copy of a view, then the node that holds the only copy of a rung."""
    if "ray" not in lab.kinds:
        return []
    place = lab.place("node")
    os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"] = "token", secrets.token_hex(32)
    helper = Command(place, "cluster", "--cluster", str(place), cache=place / "none")
    found: list[str] = []
    try:
        if not wait_for((place / "address").exists, helper):
            return [helper.said[-1500:]]
        time.sleep(0.2)
        address, begun = (place / "address").read_text(), time.monotonic()
        command = started(place, "study", kind="ray", cache=place / "cache", address=address)
        for what, pattern in (("view", "logits/*/*.safetensors"), ("rung", f"ray/*/{NAME}/results/*.json")):
            holder = _only_holder(place, pattern, command)
            if holder is None:
                found.append(f"no node held the only copy of a {what}: {command.said[-1500:]}")
                continue
            removed = time.time()
            (place / f"remove-{holder}").touch()
            if not wait_for((place / f"removed-{holder}").exists, command, 60):
                return [*found, f"node {holder} could not be removed: {helper.said[-1500:]} {command.said[-1500:]}"]
            (place / f"removed-{holder}").unlink()
            wait_for(lambda removed=removed: _noted(command, removed), command, 70)  # type: ignore[misc]
            again = [when for when, text in _notes(command) if when > removed and "another continues" in text]
            told = f"its task went on after {again[0] - removed:.1f} s" if again else "it had no task then"
            found += ["a task waited for more than 60 s"] if again and again[0] - removed > 60 else []
            print(f"  node {holder} with the only copy of a {what} removed; {told}", flush=True)
        found += wrong(lab, place, command, code=command.end())
        print(f"  ray: {time.monotonic() - begun:.0f} s", flush=True)
    finally:
        (place / "stop").touch()
        helper.end(60)
        found += stayed(helper, place)
    return found


def _only_holder(place: Path, pattern: str, command: Command) -> int | None:
    """Wait until only one node has a file that it did not have before; return its number."""

    def held(number: int) -> set[str]:
        return {path.name for path in place.glob(f"cache-{number}-*/{pattern}")}

    before, holders = held(0) | held(1), list[int]()

    def look() -> bool:
        now = held(0), held(1)
        holders[:] = [number for number in (0, 1) if now[number] - now[1 - number] - before]
        return bool(holders)

    return holders[0] if wait_for(look, command) else None


def _notes(command: Command) -> list[tuple[float, str]]:
    lines = [line.split(" ", 2) for line in command.said.splitlines()]
    return [(float(line[0]), line[2]) for line in lines if line[1:2] == ["note"]]


def _noted(command: Command, since: float) -> bool:
    return any(when > since and "while" in text for when, text in _notes(command))


def disk(lab: Lab) -> list[str]:
    """Fill the disk of the study folder, then of the cache; free a little at each start of the command."""
    found = []
    for kind, folder in (("local", "runs"), ("local", "cache"), ("ray", "runs")):
        if kind not in lab.kinds:
            continue
        place, stops = lab.place(f"disk-{kind}-{folder}"), 0
        (place / folder).mkdir()
        mount("-t", "tmpfs", "-o", f"size={SMALL}", "none", place / folder)
        cache = place / "cache" if folder == "cache" else lab.cache
        for free in FREE_KB:
            _leave(place / folder, free * 1024)
            command = started(place, f"{free}-kB", kind=kind, cache=cache)
            code = command.end()
            if code == 0:
                break
            stops += 1
            found += refused(command, code, "No space left on device", "disk is full")
        (place / folder / "ballast").unlink()
        command = started(place, "space", kind=kind, cache=cache)
        found += wrong(lab, place, command, code=command.end()) + ([] if stops else ["no disk was full"])
        print(f"  {kind}, {folder}: stopped {stops} times, then complete", flush=True)
    return found


def _leave(place: Path, free: int) -> None:
    """Fill a file system up to a number of free bytes."""
    (place / "ballast").unlink(missing_ok=True)
    left = os.statvfs(place)
    (place / "ballast").write_bytes(b"x" * max(0, left.f_bavail * left.f_frsize - free))


def cache(lab: Lab) -> list[str]:
    """Make the cache read-only: a warm cache serves, a cold one is refused."""
    found = []
    for kind, warm in (("local", True), ("ray", True), ("local", False)):
        if kind not in lab.kinds:
            continue
        place = lab.place(f"cache-{kind}-{'warm' if warm else 'cold'}")
        folder = lab.warm(place) if warm else place / "cache"
        folder.mkdir(exist_ok=True)
        mount("--bind", folder, folder)
        mount("-o", "remount,bind,ro", folder)
        command = started(place, "study", kind=kind, cache=folder)
        code = command.end()
        found += wrong(lab, place, command, code=code) if warm else refused(command, code, "Read-only file system")
        print(f"  {place.name}: {'complete' if warm else 'refused'}", flush=True)
    return found


def mount(*arguments: object) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


def damage(lab: Lab) -> list[str]:
    """Damage files of a study that was killed: they are repaired or refused by name, never used."""
    found = []
    cases = [("local", what) for what in DAMAGED] + [("ray", "folder"), ("ray", "logits")]
    for kind, what in cases:
        if kind not in lab.kinds:
            continue
        place = lab.place(f"damage-{kind}-{what}")
        caches = lab.warm(place)
        command = started(place, "begun", kind=kind, cache=caches)
        ready = wait_for(lambda place=place: _far_enough(place), command)  # type: ignore[misc]
        command.kill()
        found += stayed(command, place)
        matches = {path for pattern in DAMAGED[what] for path in place.glob(pattern) if path.stat().st_size}
        if not ready or not matches:
            found.append(f"{place.name}: the study did not get there: {command.said[-1000:]}")
            continue
        files = sorted(matches)
        for number, path in enumerate(files):
            _damage(path, number)
        command = started(place, "damaged", kind=kind, cache=caches)
        code, refusals = command.end(), ""
        if code:
            found += refused(command, code, *(path.name for path in files))
            for path in files:
                path.unlink()
            command, refusals = started(place, "removed", kind=kind, cache=caches), "refused by name, then "
            code = command.end()
        found += wrong(lab, place, command, code=code, again=what == "folder")
        print(f"  {place.name}: {len(files)} files, {refusals}complete", flush=True)
    return found


_FOLDER = f"runs/{NAME}"
DAMAGED = {
    "folder": [f"{_FOLDER}/{name}" for name in ("results/*.json", "weights/*", "checkpoints/*", "study.db*")],
    "logits": ["cache/logits/*/*.safetensors"],
    "teacher": ["cache/ladder/*/*.safetensors"],
    "record": [f"{_FOLDER}/study.json"],
}
"""Files that are damaged together."""


def _far_enough(place: Path) -> bool:
    folder = place / "runs" / NAME
    return len(list(folder.glob("results/*.json"))) > 6 and bool([*folder.glob("weights/*"), *folder.glob("*.db")])


def _damage(path: Path, number: int) -> None:
    """Flip a bit, cut the file, or replace its content, in turns. In JSON, a digit becomes another digit."""
    content = bytearray(path.read_bytes())
    at = int(0.7 * len(content))
    if path.suffix == ".json":
        at = next(place for place in range(at, len(content)) if chr(content[place]).isdigit())
    content[at] ^= 0x01
    path.write_bytes((content, content[: len(content) // 2], b"\x00garbage")[number % 3])


SCENARIOS: dict[str, Callable[[Lab], list[str]]] = {
    "workers": workers,
    "coordinator": coordinator,
    "node": node,
    "disk": disk,
    "cache": cache,
    "damage": damage,
}
MOUNTING = ("disk", "cache")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", nargs="+", choices=list(SCENARIOS), default=list(SCENARIOS))
    parser.add_argument("--kills", type=int, default=30, help="of workers, on local processes and on Ray each")
    parser.add_argument("--executor", choices=["local", "ray"], help="only this one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", action="store_true", help="exit with 1 if anything is wrong")
    parser.add_argument("--keep", action="store_true", help="keep the folders of all studies")
    for internal in ("--drive", "--address", "--cluster", "--mounting"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.drive:
        return drive(args.drive, args.address)
    if args.cluster:
        return cluster(Path(args.cluster))
    names = args.scenario
    if args.mounting or not set(names) & set(MOUNTING):
        return run(args, names)
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        print(f"not run: {', '.join(MOUNTING)}: this user may not mount file systems")
        return run(args, [name for name in names if name not in MOUNTING])
    return subprocess.run(["unshare", "--mount", sys.executable, *sys.argv, "--mounting", "yes"]).returncode


def run(args: argparse.Namespace, names: list[str]) -> int:
    root = Path(tempfile.mkdtemp(prefix="ad-faults-"))
    found: list[str] = []
    try:
        calm = root / "calm"
        calm.mkdir()
        begun = time.monotonic()
        command = started(calm, "study")
        if code := command.end():
            print(f"the undisturbed study ended with {code}: {command.said[-2000:]}")
            return 1
        kinds = (args.executor,) if args.executor else ("local", "ray")
        calm_s = time.monotonic() - begun
        lab = Lab(root, random.Random(args.seed), args.kills, kinds, record_in(calm), calm_s, calm / "cache")
        print(f"an undisturbed study: {lab.calm_s:.0f} s; load {os.getloadavg()[0]:.1f}", flush=True)
        for name in names:
            begun = time.monotonic()
            print(f"{name}: {SCENARIOS[name].__doc__}", flush=True)
            lines = SCENARIOS[name](lab)
            print(f"{name}: wrong: {len(lines)}, {time.monotonic() - begun:.0f} s", flush=True)
            found += lines
    finally:
        for command in Command.running:  # after an error or Ctrl-C
            command.kill()
            command.left()
        if args.keep:
            print(f"kept: {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)
    for line in found:
        print(f"  {line}")
    return int(args.check and bool(found))


if __name__ == "__main__":
    sys.exit(main())
