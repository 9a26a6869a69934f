"""A study, whole: refused before any work, equal however it was run, resumed from wherever it was killed."""

import functools
import hashlib
import itertools
import json
import os
import shutil
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from dataset_files import write_images
from factories import bare
from processes import alive, children_of

from autodistill import __main__ as entry
from autodistill import cache
from autodistill.commands import search_request
from autodistill.errors import AutodistillError, ConfigError, StoreError
from autodistill.records import (
    Event,
    Note,
    PhaseStarted,
    RunEnded,
    RunRequest,
    StudyRecord,
    TaskProgress,
    TrialEnded,
    TrialParams,
    read_study,
    to_json,
)
from autodistill.space import shipped
from autodistill.store import cache_root, locked
from autodistill.study import KNOWN, environment, estimate, prepare, run_study, spelt
from autodistill.study import running as running_module
from autodistill.workers import Message, Pool, Probe, Setup, Task, Workplace

TINY = (
    "data.train=100",
    "data.validation=100",
    "data.test=100",
    "training.epochs=3",
    "training.short_epochs=1",
    "ladder.epochs=10",
    'ladder.architectures=["resnet8:0.25", "resnet8:0.5"]',
)
NAME = "smoke-resnet8-0.25"
NEEDED_VIEWS = 2 * 3
"""Two teachers, a view for each of three epochs."""


class Here(Pool):
    """The pool's work done in this process: as many workplaces, taking turns."""

    def __init__(self, size: int, setup: Setup) -> None:
        self.places = [Workplace(setup) for _ in range(size)]

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, tasks: Sequence[Task]) -> Iterator[Message]:
        for number, task in enumerate(tasks):
            yield from self.places[number % len(self.places)].do(task)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_module, "Pool", Here)


def request(*more: str, student: str = "resnet8:0.25", budget: str = "11", workers: int = 1, **flags: Any) -> Any:
    overrides = (*TINY, *more)
    return search_request(
        student=student, space="smoke", budget=budget, workers=workers, overrides=overrides, **flags
    )


def drive(asked: Any, watch: Callable[[Event], None] = lambda _: None) -> StudyRecord:
    events = run_study(prepare(asked))
    while True:
        try:
            watch(next(events))
        except StopIteration as end:
            return end.value


def core(record: StudyRecord) -> dict[str, Any]:
    """What equal studies share."""
    return record.model_dump(mode="json", exclude={"timing", "environment"})


def kept() -> StudyRecord:
    return read_study(Path("runs", NAME, "study.json"))


def everything(*roots: Path) -> set[Path]:
    return {path for root in roots for path in root.rglob("*")}


class Reference(NamedTuple):
    record: StudyRecord
    cache: Path
    place: Path


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    """A study by two processes with a cold cache."""
    place = tmp_path_factory.mktemp("reference")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTODISTILL_CACHE", str(place / "cache"))
        patch.chdir(place)
        record = drive(request(workers=2))
    return Reference(record, place / "cache", place)


def test_a_study_ends_with_every_part_of_its_record(reference):
    record = reference.record
    assert record.state == "complete"
    assert record.recommendation is not None
    assert {teacher.name for teacher in record.teachers} == {"resnet8:0.25", "resnet8:0.5"}
    assert [trial.kind for trial in record.trials[:2]] == ["prior", "prior"]
    assert len(record.trials) > 4
    assert all(trial.state != "running" for trial in record.trials)
    assert [finalist.teacher for finalist in record.finalists].count(None) == 1
    assert all(run.test_top1 is not None for finalist in record.finalists for run in finalist.runs)
    assert record.spent_epochs == sum(run.spent_epochs for run in record.runs()) <= record.plan.total_epochs
    assert read_study(reference.place / "runs" / NAME / "study.json") == record
    assert set(record.timing["phases_s"]) == {"teachers", "baselines and priors", "search", "confirm"}
    assert set(record.timing["runs_s"]) == {run.run for run in record.runs()}
    assert record.environment["workers"] == "2"
    assert record.environment.keys() >= environment("cpu").keys()


def test_two_workers_run_each_teacher_on_each_view_once(reference):
    assert reference.record.timing["views_computed"] == NEEDED_VIEWS
    files = list(reference.cache.glob("logits/*/*.safetensors"))
    assert len(files) == NEEDED_VIEWS + 2, "and both on the validation split"


@pytest.fixture
def warm(reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that holds the teachers and all their logits."""
    monkeypatch.setenv("AUTODISTILL_CACHE", str(reference.cache))


@pytest.fixture
def finished(reference: Reference, here: None, warm: None) -> StudyRecord:
    """The finished reference study in the folder here."""
    shutil.copytree(reference.place / "runs", "runs")
    return reference.record


def stamps(paths: Iterable[Path]) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in paths}


def test_no_later_study_runs_a_teacher_again_and_another_seed_is_another_study(reference, here, warm, monkeypatch):
    monkeypatch.setattr(cache, "logits_of", None)
    files = list(reference.cache.rglob("*.safetensors"))
    before = stamps(files)
    record = drive(request(study="later", seed=1))
    assert record.timing["views_computed"] == 0
    assert stamps(reference.cache.rglob("*.safetensors")) == before
    assert [trial.params for trial in record.trials[2:]] != [trial.params for trial in reference.record.trials[2:]]
    assert record.no_teacher.curve != reference.record.no_teacher.curve


def test_a_warm_cache_changes_nothing(reference, here, warm):
    assert core(drive(request(workers=2))) == core(reference.record)


class Cold(NamedTuple):
    record: StudyRecord
    events: list[Event]
    spent: list[int]
    """Epochs on record after each run."""
    calls: Counter[str]
    """Teacher and images to how often it was run over them."""


@pytest.fixture(scope="module")
def cold(tmp_path_factory: pytest.TempPathFactory) -> Cold:
    """The same study by one worker with a cold cache, watched."""
    found = Cold(bare({}), [], [], Counter())
    plain = cache.logits_of

    def counted(teacher: Any, images: Any) -> Any:
        found.calls[teacher.name + hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest()] += 1
        return plain(teacher, images)

    def look(event: Event) -> None:
        found.events.append(event)
        if isinstance(event, RunEnded):
            assert event.record.run in kept().timing["runs_s"]
            assert kept().state == "running"
            found.spent.append(kept().spent_epochs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTODISTILL_CACHE", str(tmp_path_factory.mktemp("cold")))
        patch.chdir(tmp_path_factory.mktemp("place"))
        patch.setattr(running_module, "Pool", Here)
        patch.setattr(cache, "logits_of", counted)
        return found._replace(record=drive(request(), look))


def test_one_worker_and_two_find_the_same(reference, cold):
    assert core(cold.record) == core(reference.record)


def test_one_worker_runs_each_teacher_on_each_view_once(cold):
    assert len(cold.calls) == NEEDED_VIEWS + 2, "and both on the validation split"
    assert set(cold.calls.values()) == {1}
    assert cold.record.timing["views_computed"] == NEEDED_VIEWS


def test_the_record_is_whole_after_every_run(cold):
    assert len(cold.spent) == len(cold.record.timing["runs_s"])
    assert cold.spent == sorted(set(cold.spent))
    assert cold.spent[-1] == cold.record.spent_epochs


def test_events_tell_the_plan_first_and_the_phases_in_order(cold):
    first = cold.events[0]
    assert isinstance(first, Note)
    assert first.text == f"plan: {spelt(cold.record.plan)}"
    assert first.text.startswith("plan: 11 full trainings = no teacher 1 + plain KD 1 + priors 2.67 + confirm 5")
    phases = [event.phase for event in cold.events if isinstance(event, PhaseStarted)]
    assert phases == ["teachers", "baselines and priors", "search", "confirm"]
    ladder = Counter(event.task for event in cold.events if isinstance(event, TaskProgress))
    assert ladder == {"teacher resnet8:0.25": 10, "teacher resnet8:0.5": 10}
    trials = [event.record.number for event in cold.events if isinstance(event, TrialEnded)]
    assert trials == list(range(len(cold.record.trials)))


def results(place: Path) -> list[Path]:
    return list(place.glob("runs/*/**/result.json"))


KILLS: dict[str, Callable[[Path, int], bool]] = {
    "the ladder is trained": lambda place, runs: any(place.glob("cache/ladder/*/*.lock")),
    "the cache is filled": lambda place, runs: len(list(place.glob("cache/logits/*/*.safetensors"))) > 2,
    "trials are searched": lambda place, runs: any(place.glob("runs/*/trials/0003/short/result.json")),
    "finalists are confirmed": lambda place, runs: any(place.glob("runs/*/confirm/*/result.json")),
    "the last run is over": lambda place, runs: len(results(place)) == runs,
}


def started(place: Path, arguments: Sequence[str]) -> int:
    """The command line in a process of its own: forked, as each start would take seconds to import torch again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        return pid
    try:
        os.chdir(place)
        os.environ["AUTODISTILL_CACHE"] = str(place / "cache")
        sys.argv = ["autodistill", "search", *arguments]
        sys.stdout = sys.stderr = (place / "log").open("w", buffering=1)
        entry.main()
    finally:
        os._exit(1)


def killed_when(reached: Callable[[], bool], pid: int) -> int:
    """Wait until it is so, kill the process, wait until its workers are gone; returns its status."""
    workers: set[int] = set()
    for look in itertools.count():
        if reached():
            break
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        workers |= children_of(pid) if look % 50 == 0 else set()
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    until = time.monotonic() + 60
    while any(map(alive, workers)):
        assert time.monotonic() < until, "orphans"
        time.sleep(0.05)
    return status


def test_a_study_killed_five_times_ends_as_one_that_never_was(tmp_path, reference, monkeypatch):
    arguments = ["--student", "resnet8:0.25", "--space", "smoke", "--budget", "11", "--workers", "1"]
    arguments += itertools.chain(*(("--set", override) for override in TINY))
    runs = len(results(reference.place))
    for when, reached in KILLS.items():
        status = killed_when(functools.partial(reached, tmp_path, runs), started(tmp_path, arguments))
        assert os.WIFSIGNALED(status), f"ended before {when}:\n{(tmp_path / 'log').read_text()}"
        record = tmp_path / "runs" / NAME / "study.json"
        state = read_study(record).state if record.exists() else "none yet"
        assert state in ({"running", "complete"} if when == "the last run is over" else {"none yet", "running"})
    monkeypatch.setattr(running_module, "Pool", Here)
    monkeypatch.setenv("AUTODISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    assert core(drive(request())) == core(reference.record)
    assert len(results(tmp_path)) == runs
    assert not list(tmp_path.glob("runs/**/.*.tmp"))


def unfinish() -> None:
    """As a kill before the last write would leave it."""
    path = Path("runs", NAME, "study.json")
    path.write_text(to_json(read_study(path).model_copy(update={"state": "running", "recommendation": None})))


def test_a_finished_study_starts_no_process_and_gives_its_record(finished, monkeypatch):
    monkeypatch.setattr(running_module, "Pool", None)
    assert drive(request()) == finished == kept()


def test_kept_runs_are_replayed_and_the_record_never_falls_back(finished):
    unfinish()
    before, seen = stamps(results(Path())), []
    again = drive(request(), lambda _: seen.append(len(kept().finalists)))
    assert set(seen) == {3}, "written before anything new was known"
    assert core(again) == core(finished) == core(kept())
    assert stamps(results(Path())) == before
    assert again.timing["views_computed"] == finished.timing["views_computed"]
    assert again.timing["phases_s"]["search"] >= finished.timing["phases_s"]["search"]


def test_runs_that_diverge_are_recorded_and_the_study_goes_on(here, warm, monkeypatch):
    from autodistill.errors import TrialError
    from autodistill.workers import tasks

    plain = tasks.supervise

    def refuse(params: Any, **rest: Any) -> Any:
        if params.rule == "ts" and params.rule_params["tau"] != 4.0:
            raise TrialError("the loss became nan in epoch 1")
        return plain(params, **rest)

    monkeypatch.setattr(tasks, "supervise", refuse)
    record = drive(request(budget="12"))
    failed = [trial for trial in record.trials if trial.state == "failed"]
    assert failed
    assert all("the loss became nan" in trial.reason for trial in failed)
    assert record.state == "complete"
    assert record.recommendation is not None
    assert core(drive(request(budget="12"))) == core(record)


def stepping() -> SimpleNamespace:
    """A clock that moves a second at every look."""
    return SimpleNamespace(monotonic=map(float, itertools.count()).__next__)


def test_a_timeout_stops_and_the_same_command_resumes_to_the_same_end(reference, here, warm, monkeypatch):
    monkeypatch.setattr(running_module, "time", stepping())
    notes: list[str] = []
    sessions: list[StudyRecord] = []
    for timeout in ("1s", "40s", "40s", "60s", "90s", "200s"):
        sessions.append(
            drive(request(timeout=timeout), lambda it: notes.append(it.text) if isinstance(it, Note) else None)
        )
        assert core(kept()) == core(sessions[-1])
    assert [it.state for it in sessions].count("running") >= 3
    assert sessions[0].spent_epochs == 0
    assert [it.spent_epochs for it in sessions] == sorted(it.spent_epochs for it in sessions)
    assert "--timeout: stopped after 40 s; the same command goes on from here" in notes
    assert core(sessions[-1]) == core(reference.record)


def test_a_timeout_before_anything_new_leaves_a_finished_record_as_it_is(finished, monkeypatch):
    monkeypatch.setattr(running_module, "time", stepping())
    assert drive(request(timeout="1s", budget="13")) == finished == kept()


def test_a_budget_of_time_becomes_epochs_once(here, monkeypatch):
    speeds = iter([Probe(epoch_s=0.9, validation_s=0.2), Probe(epoch_s=0.1, validation_s=0.1)])
    monkeypatch.setattr(Here, "run", lambda self, tasks: (next(speeds) for _ in tasks))

    def planned(budget: str) -> str:
        events = run_study(prepare(request(budget=budget, workers=2)))
        note = next(events)
        events.close()
        return note.text

    first = planned("0.3m")
    assert first.startswith("plan: 12 full trainings"), "2 workers for 18 s, 0.9 s an epoch, 0.2 every other"
    assert planned("0.3m") == first
    with pytest.raises(ConfigError, match=r"--budget 0\.01m: .* the smallest is 10\.67"):
        planned("0.01m")


def test_a_higher_budget_goes_on_and_trains_no_finished_run_again(finished):
    before = stamps(results(Path()))
    fresh: list[RunEnded] = []
    second = drive(
        request(budget="13"),
        lambda it: fresh.append(it) if isinstance(it, RunEnded) and not it.reused else None,
    )
    assert stamps(before) == before
    assert second.plan.requested == "13"
    assert finished.spent_epochs < second.spent_epochs <= 39
    first, both = ({run.run for run in record.runs()} for record in (finished, second))
    assert {it.record.run for it in fresh} == both - first != set()
    known = len(finished.trials)
    assert [it.params for it in second.trials[:known]] == [it.params for it in finished.trials]


def test_a_small_cache_gives_a_pool_of_views(reference, here):
    shutil.copytree(reference.cache / "ladder", cache_root() / "ladder")
    one = 2 * 100 * 10 * 2
    record = drive(request(cache_size=f"{2 * one + 1}"))
    assert record.data.views == 2
    assert record.timing["views_computed"] == 2 * 2
    assert record.command.endswith("--set data.views=2")
    assert core(drive(request("data.views=2"))) == core(record), "the command on record says it all"
    with pytest.raises(StoreError, match=r"space\.data\.views: there 2, asked for None"):
        drive(request())


def test_more_workers_make_larger_waves_which_the_command_says_and_the_study_keeps(here):
    asked = prepare(request("search.wave=1", workers=3))
    assert asked.space.search.wave == 3
    assert asked.request.command.endswith("--set search.wave=3")
    events = run_study(asked)
    next(events)
    events.close()
    resumed = prepare(request("search.wave=1", workers=1))
    assert resumed.space.search.wave == 3
    assert resumed.request.command == asked.request.command


def test_a_result_of_other_parameters_under_a_run_s_name_is_not_taken(finished):
    path = Path("runs", NAME, "baselines", "plain-kd", "result.json")
    found = json.loads(path.read_text())
    found["record"]["params"]["soft_weight"] = 0.123
    path.write_text(json.dumps(found))
    unfinish()
    assert core(drive(request())) == core(finished)


# What bad input gets: an error that says what, before any work.


REFUSED = {
    "student": ({"student": "mobilnetv2"}, r"unknown network 'mobilnetv2' \(did you mean 'mobilenetv2'"),
    "data": ({"data": "digitz"}, r"data\.name: unknown dataset 'digitz' \(did you mean 'digits'"),
    "rule": (
        {"more": ["search.rules.isatz.tau=4"]},
        r"search\.rules\.isatz: unknown rule 'isatz' \(did you mean 'isats'",
    ),
    "budget": (
        {"budget": "10"},
        r"--budget 10: 10 full trainings are too few for 2 teachers: the smallest is 10\.67",
    ),
    "unit": ({"budget": "10 parsecs"}, r"--budget 10 parsecs: must be a number"),
    "batch": (
        {"more": ["training.batch_size=101"]},
        r"training\.batch_size: 101 is more than the 100 training images",
    ),
    "cache": ({"cache_size": "3999"}, r"--cache-size 3999: one view of 2 teachers takes 4000 bytes"),
    "trials": ({"max_trials": 1}, r"--max-trials 1"),
    "study": ({"study": "../elsewhere"}, r"--study \.\./elsewhere: must be a plain name"),
    "above": ({"study": ".."}, r"--study \.\.: must be a plain name"),
    "stride": ({"more": ["student.stem_stride=3"]}, r"student\.stem_stride"),
    "teacher": ({"teachers": ("file:gone.safetensors?arch=resnet8",)}, r"no such file: gone\.safetensors"),
    "sizes": ({"more": ["data.train=5000"]}, r"data\.train"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_before_any_work(case):
    flags, message = REFUSED[case]
    flags = dict(flags)
    before = everything(Path(), cache_root())
    with pytest.raises(AutodistillError, match=message) as found:
        prepare(request(*flags.pop("more", ()), **flags))
    assert found.value.exit_code == 2
    assert everything(Path(), cache_root()) == before


RULES = {
    "both": (
        ["search.rules.isats.target_ratio={low = 0.8, high = 4.0}", "search.rules.isats.tau_target=4"],
        r"search\.rules\.isats: target_ratio is 0\.8 and tau_target is 4\.0: give one",
    ),
    "corner": (
        [
            "search.rules.isats.target_ratio={low = 0.8, high = 4.0}",
            "search.rules.isats.tau_min={low = 0.5, high = 9.0}",
            "search.rules.isats.tau_max=8",
            "prior.params={target_ratio = 2.0, tau_min = 0.5}",
        ],
        r"search\.rules\.isats: tau_min is 9\.0 and tau_max is 8\.0",
    ),
    "anchor": (
        [
            "search.rules.isats.target_ratio=[1.6, 2.0]",
            'search.rules.isats.anchor="othermax"',
            "prior.params.target_ratio=2.0",
        ],
        r"search\.rules\.isats: unknown anchor 'othermax'; allowed: raw, mean, other_max, target",
    ),
    "missing": (
        ["search.rules.ts.tau_student=4", 'prior.rule="ts"', "prior.params={}"],
        r"search\.rules\.ts: .*'?tau'?",
    ),
    "word": (
        ['search.rules.ts.tau="four"', 'prior.rule="ts"', 'prior.params.tau="four"'],
        r"search\.rules\.ts: ",
    ),
    "student's word": (
        ["search.rules.ts.tau=4", 'search.rules.ts.tau_student="hot"', 'prior.rule="ts"', "prior.params={}"],
        r"search\.rules\.ts\.tau_student: must be a number above 0",
    ),
    "two at once": (
        [
            "search.rules.isats.target_ratio=[1.6, 2.0]",
            'search.rules.isats.tau_wrong="literel"',
            'search.rules.ats={tau_target = 2.0, tau_other = 4.0, anchor = "none"}',
            "prior.params.target_ratio=2.0",
        ],
        r"search\.rules\.isats: tau_wrong is 'literel'(.|\n)*search\.rules\.ats: unknown anchor 'none'",
    ),
}


@pytest.mark.parametrize("case", RULES)
def test_parameters_that_a_rule_refuses_are_found_before_any_work(case):
    overrides, message = RULES[case]
    with pytest.raises(ConfigError, match=message):
        prepare(request(*overrides))
    assert not everything(Path(), cache_root())


def test_the_shipped_spaces_pass_the_trial_of_their_rules():
    from autodistill.space import load
    from autodistill.study.trying import try_rules

    for name in shipped():
        try_rules(load(name, known=KNOWN), 10)


def two_classes(tmp_path: Path, *more: str) -> Any:
    write_images(tmp_path / "cats or dogs", ["cat", "dog"], count=40)
    sizes = ("data.train=40", "data.validation=20", "data.test=20", "data.crop=0", "training.batch_size=20")
    return request(*sizes, *more, data=f"folder:{tmp_path / 'cats or dogs'}")


def test_two_classes_leave_isats_out_and_say_so(tmp_path, here):
    prepared = prepare(two_classes(tmp_path))
    assert set(prepared.space.search.rules) == {"ts", "ats"}
    assert (prepared.space.prior.rule, prepared.space.prior.params) == ("ts", {"tau": 4.0})
    (note,) = prepared.notes
    assert "isats left out (needs at least 3 classes; folder:" in note
    first = next(run_study(prepared))
    assert (first.text, first.warning) == (note, True)
    own = prepare(two_classes(tmp_path, 'prior.rule="ats"', "prior.params={tau_target = 2.0, tau_other = 3.0}"))
    assert own.space.prior.rule == "ats"


@pytest.mark.parametrize(
    ("override", "key"),
    [("search.rules.isats.target_ratio=2.0", r"search\.rules\.isats"), ("prior.params.target_ratio=2.0", "prior")],
)
def test_naming_isats_with_two_classes_is_an_error(tmp_path, override, key):
    with pytest.raises(ConfigError, match=rf"{key}: isats needs at least 3 classes; .* has 2"):
        prepare(two_classes(tmp_path, override, "prior.params.target_ratio=2.0"))


def test_a_run_folder_of_another_study_is_refused_with_the_differences(here):
    events = run_study(prepare(request()))
    next(events)
    events.close()
    before = everything(Path(), cache_root())
    for other, difference in (
        (request("training.lr=0.07"), r"space\.training\.lr: there 0\.05, asked for 0\.07"),
        (request(student="resnet8:0.3", study=NAME), r"student: there 'resnet8:0\.25', asked for 'resnet8:0\.3'"),
        (request(seed=1), r"space\.search\.seed: there 0, asked for 1"),
    ):
        with pytest.raises(StoreError, match=rf"belongs to another study:\n(.|\n)*{difference}") as found:
            next(run_study(prepare(other)))
        assert found.value.exit_code == 2
    assert everything(Path(), cache_root()) == before


def test_a_study_in_use_is_refused(here):
    prepared = prepare(request())
    with locked(prepared.folder.lock), pytest.raises(StoreError, match="in use by another") as found:
        next(run_study(prepared))
    assert found.value.exit_code == 2


def test_a_runs_folder_that_cannot_be_written_is_refused(here):
    Path("runs").touch()
    with pytest.raises(StoreError, match="cannot be written") as found:
        next(run_study(prepare(request())))
    assert found.value.exit_code == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(here):
    Path("runs").mkdir(mode=0o500)
    with pytest.raises(StoreError, match="cannot be written"):
        next(run_study(prepare(request())))


def test_a_teacher_that_changed_under_its_name_is_another_study(reference, here):
    (source,) = reference.cache.glob("ladder/*/resnet8-0.25.safetensors")
    (other,) = reference.cache.glob("ladder/*/resnet8-0.5.safetensors")
    Path("mine.safetensors").write_bytes(source.read_bytes())
    asked = request(teachers=("file:mine.safetensors",), budget="11", study="mine")
    events = run_study(prepare(asked))
    next(events)
    events.close()
    assert prepare(asked).teachers == {"mine": "file:mine.safetensors"}
    Path("mine.safetensors").write_bytes(other.read_bytes())
    with pytest.raises(StoreError, match=r"fingerprints\.mine: there"):
        next(run_study(prepare(asked)))


def test_preparing_and_estimating_write_nothing(reference, monkeypatch):
    prepared = prepare(request())
    found = estimate(prepared)
    assert prepared.untrained == ["ladder:resnet8:0.5", "ladder:resnet8:0.25"]
    assert found.plan.total_epochs == 33
    assert found.cache_bytes == 2 * 3 * 100 * 10 * 2
    assert 0 < found.ladder_s < found.wall_s
    assert not everything(Path(), cache_root())
    monkeypatch.setenv("AUTODISTILL_CACHE", str(reference.cache))
    warm = estimate(prepare(request(workers=2)))
    assert warm.ladder_s == 0
    assert prepare(request()).untrained == []


def test_the_shipped_smoke_space_trains_mobilenetv2():
    """As shipped; a whole study of it takes half a minute."""
    prepared = prepare(search_request(student="mobilenetv2", space="smoke", workers=2))
    assert (prepared.student.name, prepared.student.stem_stride) == ("mobilenetv2:0.25", 1)
    asked = RunRequest(run="one", params=TrialParams(), seed=0, epochs=prepared.space.training.short)
    *_, ended = Workplace(prepared.setup).do(asked)
    assert ended.record.state == "complete"
    losses = [record.train_loss for record in ended.record.curve]
    assert losses[-1] < 0.95 * losses[0]
