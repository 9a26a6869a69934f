"""Keep the record of a running study up to date, and pass its events on."""

import time
from collections import defaultdict
from typing import Any

from autodistill import data as datasets
from autodistill.config import dump
from autodistill.executors import OnEvent
from autodistill.records import (
    AgreementRecord,
    Event,
    FoundRun,
    LogitsComputed,
    MethodGrid,
    Note,
    PhaseStarted,
    PlanRecord,
    RunEnded,
    StudyRecord,
    TeacherRecord,
    TimeLeft,
    TrialEnded,
    TrialStarted,
    to_json,
)
from autodistill.searching import Mirror, SearchState, importance
from autodistill.stats.verdict import judged
from autodistill.store import write_bytes, write_text
from autodistill.study.environment import environment
from autodistill.study.resolve import StudySpec, student_latency
from autodistill.study.timing import Costs, Pace, describe_plan, describe_time, forget_if_wrong, planned_time

QUICK_S = 0.2
"""A write of the record that takes no longer follows every run."""
WRITE_SHARE = 20
"""After a slower write of t seconds, the next one waits WRITE_SHARE * t; results are kept one by one in any case."""
TELL_EVERY_S = 1.0


class TimeIsUp(Exception):
    """The time of `--timeout` is over."""


class Recorder:
    """Writes `study.json` as runs end. Every event of a study passes through `on_event`.

    The record `kept` of an earlier process is continued. The given function receives each event, and the time left.
    """

    def __init__(self, spec: StudySpec, on_event: OnEvent, *, kept: StudyRecord | None, mirror: Mirror) -> None:
        self._spec, self._forward, self._kept, self._mirror = spec, on_event, kept, mirror
        self._plan: PlanRecord | None = None
        self._files = {it: it.read_bytes() for it in (spec.folder.record, spec.folder.space) if it.exists()}
        self._started = self._phase_begun = time.monotonic()
        timing: dict[str, Any] = kept.timing if kept else {}
        self._environment = {**environment(spec.options.device), "workers": str(spec.options.workers)}
        self._latency = spec.latency or student_latency(spec, kept)
        self._phase, self._phase_s = "start-up", dict(timing.get("phases_s", {}))
        self._before = self._phase_s.get("start-up", 0.0)
        self._planned_s: dict[str, float] = dict(timing.get("planned_s", {}))
        self._run_s: dict[str, float] = {}
        self._parts_s: defaultdict[str, float] = defaultdict(float)
        self._views_computed = 0
        self._pace: Pace | None = None
        self._told = self._next_write = 0.0
        self._due = False
        """Whether the file lacks an event, because the write before it was slow."""
        self._fresh = False
        """Whether this process has trained a run; until then the kept record says more than the state."""
        self._found: dict[str, FoundRun] = {it.run: it for it in kept.found} if kept else {}
        self.teachers: tuple[TeacherRecord, ...] = kept.teachers if kept else ()
        self.agreement: AgreementRecord | None = kept.agreement if kept else None
        self.screened_out: dict[str, str] = dict(kept.screened_out) if kept else {}
        self.refused = {
            name: reason for name, reason in (kept.left_out if kept else {}).items() if name in spec.teachers
        }
        """Reasons why teachers of a folder did not pass their check, by name."""
        self.profile_views = int(timing.get("profile_views", 0))
        """How often a teacher was run for a profile."""
        self._views_ahead = int(timing.get("views_ahead", 0))
        """How often a worker that waited ran a teacher for the next view. No run's result counts these."""
        self.state: SearchState | None = None

    def begin(self, plan: PlanRecord) -> None:
        """Write the record as far as it is known, and announce the plan."""
        self._plan = plan
        write_text(self._spec.folder.space, dump(self._spec.runnable_space))
        self._write("running")
        for note in self._spec.notes:
            self._forward(Note(text=note, warning=True))
        self._tell_plan(plan)

    def replan(self, plan: PlanRecord) -> None:
        """Take the plan without the refused teachers; announce it if it differs."""
        if plan != self._plan:
            self._plan = plan
            self._tell_plan(plan)
        self._write("running")

    def _tell_plan(self, plan: PlanRecord) -> None:
        teachers = len(self._spec.teachers) - len(self.refused)
        self._forward(Note(text=f"plan: {describe_plan(plan, teachers=teachers)}"))

    def plan_time(self, costs: Costs, workers: int) -> None:
        """Announce the plan of time, and keep it unless an earlier process has kept one for this plan."""
        assert self._plan is not None
        planned = planned_time(self._plan, costs, workers, self._spec, kept=self._kept)
        if not (self._planned_s and self._kept and self._kept.plan == self._plan):
            self._planned_s = {
                phase: round(self._phase_s.get(phase, 0.0) + seconds, 2) for phase, seconds in planned.phases_s.items()
            }
        self._pace = Pace(planned)
        self._forward(Note(text=f"time: {describe_time(planned)}"))

    def note_found(self, found: FoundRun) -> None:
        """List a run that was found in another study."""
        self._found[found.run] = found

    def on_event(self, event: Event) -> None:
        """Take an event into account and pass it on.

        Raises:
            TimeIsUp: The time of `--timeout` is over.
            StudyError: Another process coordinates the study by now.
        """
        now = time.monotonic()
        if isinstance(event, RunEnded):
            if event.record.run in self._run_s:  # it was trained while workers waited for teachers
                return
            self._note_run(event)
        self._phase_s[self._phase] = round(self._before + now - self._phase_begun, 2)
        if isinstance(event, LogitsComputed):
            self._views_ahead += event.views_computed
        if isinstance(event, PhaseStarted):
            self._phase, self._phase_begun = event.phase, now
            self._before = self._phase_s.get(event.phase, 0.0)
        if isinstance(event, TrialEnded) and event.record.rung is not None:
            self._spec.folder.checkpoint(event.record.rung.key).unlink(missing_ok=True)
        if isinstance(event, RunEnded | TrialEnded) and self._fresh:
            self._keep_up(now)
        if self.state is not None and isinstance(event, TrialStarted | TrialEnded | RunEnded):
            self._mirror.write(self.state.sampler.trials)
        if self._pace is not None:
            self._tell_time(self._pace, event, now)
        self._forward(event)
        timeout_s = self._spec.options.timeout_s
        if self._plan is not None and timeout_s is not None and now - self._started > timeout_s:
            raise TimeIsUp

    def _keep_up(self, now: float) -> None:
        """Write the record, or leave that to a later event where the write before it was slow."""
        self._due = True
        if now >= self._next_write:
            self._write("running")
            took = time.monotonic() - now
            self._next_write = now + WRITE_SHARE * took if took > QUICK_S else 0.0

    def _note_run(self, event: RunEnded) -> None:
        record = event.record
        self._run_s[record.run] = round(event.wall_s, 2)
        self._views_computed += event.views_computed
        for part, seconds in event.parts_s.items():
            self._parts_s[part] += seconds
        if not event.reused:
            self._fresh = True
            self._found.pop(record.run, None)
        if self.state is not None:
            self.state.results[record.run] = record

    def _tell_time(self, pace: Pace, event: Event, now: float) -> None:
        pace.note(event, now)
        due = now - self._told >= TELL_EVERY_S or isinstance(event, PhaseStarted)
        if due and (left := pace.left_s(now)) is not None:
            self._told = now
            self._forward(TimeLeft(wall_s=left))

    def stopped(self) -> StudyRecord:
        """Write the record of a study whose time is up."""
        text = f"--timeout: stopped after {self._spec.options.timeout_s:g} s; the same command continues"
        self._forward(Note(text=text, warning=True))
        return self._write("running")

    def undo(self) -> None:
        """Write the files of the study as they were before this process began, and remove new files."""
        for path in (self._spec.folder.record, self._spec.folder.space):
            if path in self._files:
                write_bytes(path, self._files[path])
            else:
                path.unlink(missing_ok=True)
        self._due = False

    def complete(self) -> StudyRecord:
        """Write the record of a complete study, with its recommendation."""
        record = self._write("complete")
        forget_if_wrong(self._spec, self._planned_s, self._phase_s)
        return record

    def close(self) -> None:
        """Bring the record and the copy in the database up to date, whatever ended the study."""
        if self._due:
            self._write("running")
        self._mirror.close(self.state.sampler.trials if self.state else ())

    def _write(self, state: str) -> StudyRecord:
        spec, space, plan = self._spec, self._spec.space, self._plan
        assert plan is not None
        fields: dict[str, Any] = {
            "name": spec.folder.path.name,
            "state": state,
            "command": spec.options.command,
            "spec": spec.record,
            "joins": self._kept.joins if self._kept else (),
            "found": tuple(self._found.values()),
            "student": spec.student,
            "limits": spec.options.limits,
            "left_out": {**spec.left_out, **self.refused},
            "data": datasets.record(spec.data, spec=space.data, views=spec.views),
            "space": space.model_dump(mode="json", exclude_none=True),
            "plan": plan,
            "environment": self._environment,
            "timing": {
                "phases_s": self._phase_s,
                "planned_s": self._planned_s,
                "runs_s": self._run_s,
                "parts_s": {name: round(seconds, 2) for name, seconds in sorted(self._parts_s.items())},
                "views_computed": self._views_computed + self._views_ahead + self.profile_views,
                "views_ahead": self._views_ahead,
                "profile_views": self.profile_views,
                "latency": self._latency.model_dump() if self._latency else None,
            },
        }
        if self._kept is not None and not self._fresh and state != "complete":
            record = self._kept.model_copy(update=fields)
        else:
            record = StudyRecord(
                **fields,
                teachers=self.teachers,
                screened_out=self.screened_out,
                agreement=self.agreement,
                **self._results(state),
            )
        if state == "complete":
            record = judged(record)
        write_text(spec.folder.record, to_json(record))
        self._due = False
        return record

    def _results(self, state: str) -> dict[str, Any]:
        found = self.state
        if found is None:
            settings, methods = self._plan.settings if self._plan else None, tuple(self._spec.space.search.methods)
            return {} if settings is None else {"grid": MethodGrid(methods=methods, settings=settings)}
        names = [teacher.name for teacher in self.teachers if teacher.name not in self.screened_out]
        results = ("spent_epochs", "no_teacher", "plain_kd", "trials", "reruns", "finalists", "controls", "audit")
        more = ("label_smoothing", "grid")
        return {
            **{name: getattr(found, name) for name in (*results, *more)},
            "importance": importance(found.trials, self._spec.space, names) if state == "complete" else None,
        }
