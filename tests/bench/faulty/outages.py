"""A database that is away for half a minute, and one that does not come back in time."""

import time
from functools import partial

from autodistill import storage
from autodistill.queue.terms import Pace
from autodistill.records import StudyRecord, read_study
from faulty.kills import undisturbed
from faulty.lab import Lab, wait_for
from faulty.processes import end_of, forked
from faulty.studies import Study, coordinate, results, work, wrong

AWAY_S = 30.0
PACE = Pace(beat_s=0.5, lease_s=20.0, look_s=0.05, idle_s=0.2)
PATIENCE_S = 6.0
"""Of processes whose database never comes back, in place of the minutes that users' processes have."""
MOST_S = 200.0


def storage_away(lab: Lab) -> list[str]:
    """For 30 s: all wait, say so once, and go on. For good: all end, and the same commands go on when it is back."""
    return [
        *(f"30 s: {line}" for line in _away_for_a_while(lab)),
        *(f"for good: {line}" for line in _away_for_good(lab)),
    ]


def _away_for_a_while(lab: Lab) -> list[str]:
    study, expected = _study(lab, "away")
    crew = _crew(study)
    if not wait_for(study.place, "runs/*/**/result.json", count=3):
        return ["the study did not get there"]
    seen = results(study.place)
    lab.postgres.stop()
    time.sleep(AWAY_S)
    lab.postgres.start()
    codes = {name: end_of(pid, limit_s=MOST_S) for name, pid in crew.items()}
    found = [f"{name} ended with {code}" for name, code in codes.items() if code]
    for name in crew:
        log = (study.place / f"{name}.log").read_text()
        times = log.count("does not answer")
        found += [f"{name} said {times} times that the database is away:\n{log[-1500:]}"] * (times != 1)
        found += [f"{name}: {log[-1500:]}"] * ("Traceback" in log or "lost the worker" in log)
    return found + wrong(study, expected, seen)


def _away_for_good(lab: Lab) -> list[str]:
    study, expected = _study(lab, "gone")
    crew = _crew(study, before=_impatient)
    if not wait_for(study.place, "runs/*/**/result.json", count=3):
        return ["the study did not get there"]
    seen = results(study.place)
    lab.postgres.stop()
    codes = {name: end_of(pid, limit_s=MOST_S) for name, pid in crew.items()}
    lab.postgres.start()
    found = [f"{name} ended with {code}" for name, code in codes.items() if code != 1]
    for name in crew:
        log = (study.place / f"{name}.log").read_text()
        clear = "the database stayed away" in log and "the same command goes on" in log
        found += [f"{name}: {log[-1500:]}"] * ("Traceback" in log or not clear)
        print(f"  {name}: {' '.join(log.split())[-300:]}", flush=True)
    again = {name: end_of(pid, limit_s=MOST_S) for name, pid in _crew(study).items()}
    return found + [f"{name}, again: {code}" for name, code in again.items() if code] + wrong(study, expected, seen)


def _study(lab: Lab, name: str) -> tuple[Study, StudyRecord]:
    study = Study(f"faults-{name}", lab.seed, lab.database(), lab.place(name))
    undisturbed(study, lab.root / "calm" / name)
    return study, read_study(lab.root / "calm" / name / "runs" / study.name / "study.json")


def _crew(study: Study, before=lambda: None) -> dict[str, int]:
    def begun(role) -> int:
        before()
        return role()

    roles = {"coordinator": partial(coordinate, study, pace=PACE)}
    roles |= {f"worker-{number}": partial(work, study) for number in range(2)}
    return {name: forked(partial(begun, role), study.place, name) for name, role in roles.items()}


def _impatient() -> None:
    storage.PATIENCE_S = PATIENCE_S
