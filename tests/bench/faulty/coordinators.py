"""Two coordinators for one study: one at a time decides, and who lost the study stops."""

import os
import signal
import time
from functools import partial

from autodistill.records import read_study
from faulty.kills import undisturbed
from faulty.lab import Lab, finished, ill_said, unlike, wait_for
from faulty.processes import command, end_of, forked
from faulty.studies import PACE, REAL, Study, coordinate, results, work, wrong

MOST_S = 200.0


def two_coordinators(lab: Lab) -> list[str]:
    return [
        *(f"one folder: {line}" for line in _one_folder(lab)),
        *(f"two folders: {line}" for line in _two_folders(lab)),
        *(f"asleep: {line}" for line in _asleep(lab)),
    ]


def _one_folder(lab: Lab) -> list[str]:
    """The same command twice at the same moment, by processes of its own."""
    place = lab.place("twice")
    os.environ["AUTODISTILL_CACHE"] = str(lab.warm_cache(place))
    runs = [command(place, f"search-{number}", REAL) for number in range(2)]
    codes = [run.end() for run in runs]
    loser = runs[codes.index(max(codes))]
    found = ill_said(loser, max(codes), "in use by another autodistill process")
    return [*found, *finished(runs[codes.index(min(codes))]), *unlike(lab.calm, place, {})]


def _two_folders(lab: Lab) -> list[str]:
    """Of one database, at the same moment, from two machines that share nothing else."""
    study, expected = _study(lab, "two")
    other = study._replace(place=lab.place("two-too"))
    coordinators = {it: forked(partial(coordinate, it), it.place, "coordinator") for it in (study, other)}
    workers = [forked(partial(work, study), study.place, f"worker-{number}") for number in range(2)]
    codes = {it: end_of(pid, limit_s=MOST_S) for it, pid in coordinators.items()}
    codes_of_workers = [end_of(pid, limit_s=MOST_S) for pid in workers]
    refused = max(codes, key=codes.__getitem__)
    said = (refused.place / "coordinator.log").read_text()
    print(f"  refused: {' '.join(said.split())[-300:]}", flush=True)
    found = [said] * (codes[refused] != 2 or "another autodistill coordinates this study" not in said)
    found += [f"codes {sorted(codes.values())}, workers {codes_of_workers}"] * any(codes_of_workers)
    (winner,) = (it for it in codes if it != refused)
    return found + wrong(winner, expected, {})


def _asleep(lab: Lab) -> list[str]:
    """One falls asleep for longer than its lease, another takes over, the first wakes up."""
    study, expected = _study(lab, "asleep")
    other = study._replace(place=lab.place("awake"))
    sleeper = forked(partial(coordinate, study), study.place, "coordinator")
    workers = [forked(partial(work, study), study.place, f"worker-{number}") for number in range(2)]
    if not wait_for(study.place, "runs/*/**/result.json", count=3):
        return ["the study did not get there"]
    os.kill(sleeper, signal.SIGSTOP)
    time.sleep(PACE.lease_s)
    heir = forked(partial(coordinate, other), other.place, "coordinator")
    if not wait_for(other.place, "runs/*/**/result.json", count=3, limit_s=60):
        return [(other.place / "coordinator.log").read_text()]
    seen = results(study.place)
    os.kill(sleeper, signal.SIGCONT)
    code = end_of(sleeper, limit_s=60)
    said = (study.place / "coordinator.log").read_text()
    print(f"  woke up: {' '.join(said.split())[-300:]}", flush=True)
    found = [f"the sleeper ended with {code}: {said}"] * (code != 1 or "took this study over" not in said)
    found += [f"the heir ended with {it}" for it in [end_of(heir, limit_s=MOST_S)] if it]
    found += ["the sleeper wrote on"] * (not seen.items() <= results(study.place).items())
    found += [f"a worker ended with {it}" for it in (end_of(pid, limit_s=30) for pid in workers) if it]
    return found + wrong(other, expected, {})


def _study(lab: Lab, name: str) -> tuple[Study, object]:
    study = Study(f"faults-{name}", lab.seed, lab.database(), lab.place(name))
    undisturbed(study, lab.root / "calm" / name)
    return study, read_study(lab.root / "calm" / name / "runs" / study.name / "study.json")
