"""Loading a folder of images: seconds the first time and again, and the memory of a search's processes.

    python tests/bench/images.py [--check] [--images 60000] [--photographs 3000] [--mib 280] [--rounds 3]

Three folders are made: small JPEGs of 32 px, photographs of 500x334 that are resized to 64 px, and JPEGs of 64 px,
`--mib` when decoded. The first two are loaded by a new process with an empty cache folder, then by others with
a full one; imports are not counted. A plain loop, which opens, converts and resizes one image after another in this
process, is timed in turns with them on 2,000 files. The third is loaded by a process that then trains two runs in two
workers; resident memory (RSS) and its share (PSS: pages that n processes hold count 1/n in each) are read from
/proc/PID/smaps_rollup, so this part runs on Linux only. *Anonymous* memory belongs to one process alone.

`--check` exits 1 where 60,000 images of 32 px take longer than 15 s the first time or 2 s again, where loading again
takes longer than a fifth of the plain loop, where all three processes together hold the images more than 1.1 times in
pages of the file, or where the anonymous memory of a process, its run included, grows by more than 0.75 times the
images: then there may be a copy in it.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

SAMPLE = 2_000
"""Files of the plain loop."""
FIRST_S, AGAIN_S, AGAIN_SHARE, MOST_MAPPED, MOST_OWN = 15.0, 2.0, 0.2, 1.1, 0.75
STUDENT = "vgg8:0.125"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--photographs", type=int, default=3_000)
    parser.add_argument("--mib", type=int, default=280)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        found = {"load": timed_load, "memory": memory}[args.part[0]](args.part[1])
        print(json.dumps(found))
        return
    wrong: list[str] = []
    with TemporaryDirectory() as name:
        home = Path(name)
        small = make(home / "small", count=args.images, size=(32, 32))
        wrong += seconds(small, home, args.rounds, limits=args.images == 60_000)
        shutil.rmtree(small)
        photographs = make(home / "photographs", count=args.photographs, size=(500, 334))
        wrong += seconds(photographs, home, args.rounds, image_size=64, limits=False)
        shutil.rmtree(photographs)
        if Path("/proc/self/smaps_rollup").exists():
            large = make(home / "large", count=args.mib * 2**20 // (3 * 64 * 64), size=(64, 64))
            wrong += shared(large, home)
    for line in wrong:
        print(f"short: {line}")
    sys.exit(bool(args.check and wrong))


def make(folder: Path, *, count: int, size: tuple[int, int], classes: int = 10) -> Path:
    """Write JPEGs that no two are equal: a smooth picture from a few, moved and with a spot of its own."""
    rng = np.random.default_rng(0)
    scenes = [
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(
                (2 * size[0], 2 * size[1]), Image.Resampling.BICUBIC
            )
        )
        for _ in range(40)
    ]
    for number in range(count):
        top, left = rng.integers(0, size[1]), rng.integers(0, size[0])
        pixels = scenes[number % len(scenes)][top : top + size[1], left : left + size[0]].copy()
        pixels[: size[1] // 4, : size[0] // 4] = rng.integers(0, 256, 3)
        place = folder / f"class{number % classes}"
        if number < classes:
            place.mkdir(parents=True)
        Image.fromarray(pixels).save(place / f"{number:06d}.jpg", quality=90)
    return folder


def seconds(folder: Path, home: Path, rounds: int, *, image_size: int | None = None, limits: bool) -> list[str]:
    """Print how long loading takes; returns what falls short."""
    files = sorted(folder.glob("*/*.jpg"))
    first, again, plain = [], [], []
    for _ in range(rounds):
        shutil.rmtree(home / "cache", ignore_errors=True)
        for times in (first, again, again):
            spec = {"name": f"folder:{folder}", "image_size": image_size}
            times.append(in_process("load", json.dumps(spec), home)["seconds"])
        sample = files[:: max(1, len(files) // SAMPLE)]
        plain.append(plain_loop(sample, image_size) * len(files) / len(sample))
    middle = [statistics.median(times) for times in (first, again, plain)]
    print(
        f"{len(files):,} images of {folder.name}: first {shown(first)} s, again {shown(again)} s,"
        f" plain loop {shown(plain)} s; {middle[2] / middle[0]:.2f} and {middle[2] / middle[1]:.1f} times as fast"
    )
    wrong = []
    if limits and middle[0] > FIRST_S:
        wrong.append(f"{folder.name}: {middle[0]:.1f} s the first time, {FIRST_S:g} allowed")
    if limits and middle[1] > AGAIN_S:
        wrong.append(f"{folder.name}: {middle[1]:.1f} s again, {AGAIN_S:g} allowed")
    if middle[1] > AGAIN_SHARE * middle[2]:
        wrong.append(f"{folder.name}: again {middle[1]:.2f} s, {AGAIN_SHARE:.0%} of the plain loop allowed")
    return wrong


def shown(times: list[float]) -> str:
    return f"{statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f}, n = {len(times)})"


def plain_loop(files: list[Path], image_size: int | None) -> float:
    begun = time.perf_counter()
    for path in files:
        with Image.open(path) as image:
            size = (image_size, image_size) if image_size else image.size
            np.array(image.convert("RGB").resize(size, Image.Resampling.BILINEAR))
    return time.perf_counter() - begun


def in_process(part: str, told: str, home: Path) -> dict[str, float]:
    environment = {**os.environ, "AUTODISTILL_CACHE": str(home / "cache")}
    command = [sys.executable, __file__, "--part", part, told]
    ended = subprocess.run(command, env=environment, cwd=home, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return found


def timed_load(told: str) -> dict[str, float]:
    import sklearn.model_selection  # noqa: F401
    import torchvision.datasets  # noqa: F401

    from autodistill.config import DataSpec
    from autodistill.data import load

    spec = DataSpec(**json.loads(told))
    begun = time.perf_counter()
    load(spec)
    return {"seconds": time.perf_counter() - begun}


def shared(folder: Path, home: Path) -> list[str]:
    """Print the memory of a coordinator and two workers; returns what falls short."""
    shutil.rmtree(home / "cache", ignore_errors=True)
    wrong = []
    for when in ("images decoded by the command", "images there already"):
        found = in_process("memory", str(folder), home)
        print(f"{found['images']:.0f} MiB of images, {when} (RSS, PSS, anonymous in MiB):")
        for who in ("coordinator", "worker 0", "worker 1"):
            told = []
            for stage in ("before", "loaded", "training"):
                if f"{who} {stage} Rss" in found:
                    numbers = [found[f"{who} {stage} {kind}"] for kind in ("Rss", "Pss", "Pss_Anon")]
                    told.append(f"{stage} {', '.join(f'{number:.0f}' for number in numbers)}")
            print(f"  {who}: {'; '.join(told)}")
        mapped, own = found["mapped"], found["own"]
        print(f"  pages of the file: {mapped:.2f} times the images; anonymous memory: at most {own:.2f} times more")
        print(f"  all three processes hold {found['total']:.0f} MiB PSS")
        if mapped > MOST_MAPPED:
            wrong.append(f"{when}: {mapped:.2f} times the images are mapped, {MOST_MAPPED} allowed")
        if own > MOST_OWN:
            wrong.append(f"{when}: a process grew by {own:.2f} times the images, {MOST_OWN} allowed")
    return wrong


def memory(folder: str) -> dict[str, float]:
    """What a coordinator and two workers hold before, after the load, and at most while two runs train."""
    import sklearn.model_selection  # noqa: F401
    import torchvision.datasets  # noqa: F401

    from autodistill.config import Space
    from autodistill.data import load
    from autodistill.executors import LocalExecutor, Setup, TrainTask
    from autodistill.records import RunSpec, TrialParams

    space = Space.model_validate(
        {
            "data": {"name": f"folder:{folder}"},
            "training": {"epochs": 2, "rung_epochs": 1, "batch_size": 64, "precision": "float32"},
        }
    )
    me, found = os.getpid(), {}
    found |= held("coordinator before", me)
    data = load(space.data)
    found |= held("coordinator loaded", me)
    found["images"] = sum(part.images.nbytes for part in (data.train, data.validation, data.test)) / 2**20
    with TemporaryDirectory() as home:
        setup = Setup(
            space=space,
            student=STUDENT,
            teachers={},
            fingerprints={},
            data=data.fingerprint,
            views=1,
            device="cpu",
            folder=f"{home}/study",
            cache=f"{home}/cache",
        )
        before = set(multiprocessing.active_children())
        with LocalExecutor(2, setup, data=data) as executor:
            started = [process for process in multiprocessing.active_children() if process not in before]
            workers = {f"worker {number}": process.pid or 0 for number, process in enumerate(started)}
            wait_for_imports(workers)
            specs = [RunSpec(run=f"run{it}", params=TrialParams(), seed=it, epochs=2, until=1) for it in range(2)]
            for who, pid in workers.items():
                found |= held(f"{who} before", pid)
            peak = watched(
                {"coordinator": me, **workers},
                lambda: train(executor, [TrainTask(spec=spec, key=spec.run) for spec in specs]),
            )
            found |= peak
    everybody = ("coordinator", *workers)

    own = (found[f"{who} training Pss_Anon"] - found[f"{who} before Pss_Anon"] for who in everybody)
    found["own"] = max(own) / found["images"]
    found["mapped"] = sum(found[f"{who} training mapped"] for who in everybody) / found["images"]
    found["total"] = sum(found[f"{who} training Pss"] for who in everybody)
    return found


def train(executor: Any, tasks: Sequence[object]) -> None:
    for kept in executor.run(tasks, lambda _: None):
        if kept.result.state == "failed":
            raise SystemExit(kept.result.error)


def held(name: str, pid: int) -> dict[str, float]:
    """MiB by kind."""
    rows = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return {f"{name} {row[0].rstrip(':')}": int(row[1]) / 1024 for row in rows}


def mapped(pid: int) -> float:
    """MiB of a process's share (PSS) of the pages of files of images."""
    found, counted = 0.0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            counted = line.endswith(".images")
        elif counted and first == "Pss:":
            found += int(rest[0]) / 1024
    return found


def wait_for_imports(workers: dict[str, int]) -> None:
    """Until the workers' memory has stood still for a second."""
    last: dict[str, float] = {}
    while True:
        now = {who: held(who, pid)[f"{who} Rss"] for who, pid in workers.items()}
        if last and all(value > 200 and abs(value - last[who]) < 0.5 for who, value in now.items()):
            return
        last = now
        time.sleep(1)


def watched(processes: dict[str, int], work: Callable[[], None]) -> dict[str, float]:
    """Do `work`; returns what each process holds at the moment when all together hold most."""
    most: dict[str, float] = {}
    over = threading.Event()

    def look() -> None:
        nonlocal most
        while not over.wait(0.2):
            now: dict[str, float] = {}
            for who, pid in processes.items():
                now |= held(f"{who} training", pid) | {f"{who} training mapped": mapped(pid)}
            total = sum(now[f"{who} training Pss"] for who in processes)
            if not most or total > sum(most[f"{who} training Pss"] for who in processes):
                most = now

    looking = threading.Thread(target=look)
    looking.start()
    try:
        work()
    finally:
        over.set()
        looking.join()
    return most


if __name__ == "__main__":
    main()
