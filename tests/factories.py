"""StudyRecords of every shape, built from the records alone: seeded, and plausible enough to look at."""

import random
from collections.abc import Callable, Mapping, Sequence

from record_parts import (
    EPOCHS_FULL,
    data,
    failed_run,
    finalist,
    isats,
    kd,
    params_of,
    plan,
    profile,
    run,
    student,
    teacher,
    trial,
)

from autodistill.records import (
    AgreementRecord,
    ControlRecord,
    FinalistRecord,
    ImportanceRecord,
    StudyRecord,
    TrialParams,
    TrialRecord,
)

LADDER = {"ladder-s": 0.702, "ladder-m": 0.858, "ladder-l": 0.893, "ladder-xl": 0.911}
"""Validation accuracy by teacher; the third makes the best student."""
HOSTILE = (
    "<script>alert(1)</script>",
    '" onmouseover="alert(1)',
    "pipe | in | a table",
    "line\nbreak\r\nand\ttab",
    "*bold* _em_ `code` [link](javascript:alert(1)) ![x](x)",
    "Ünïcødé 教師 \U0001f9d1‍\U0001f3eb \u202egnorw",
    "$\\frac{a}{b}$ {{ 7 * 7 }} {% raw %} &amp; &lt;b&gt;",
    "'; DROP TABLE trials; -- ]]> --> <!-- </style><img src=http://evil.example/x>",
    "# heading\n\n- list\n```\nfence",
    "\x00\x07\x1b[31mred",
)


def profiled(record: StudyRecord) -> StudyRecord:
    """The same study with profiles for all its teachers, and their agreement."""
    teachers = tuple(
        one.model_copy(update={"profile": profile(place, val_top1=one.val_top1)})
        for place, one in enumerate(record.teachers)
    )
    places = range(len(teachers))
    spearman = tuple(tuple(max(-0.8, 1 - abs(left - right) / 10) for right in places) for left in places)
    kendall = tuple(tuple(0.9 * one if one < 1 else 1.0 for one in row) for row in spearman)
    names = tuple(one.name for one in teachers)
    agreement = AgreementRecord(examples=4000, teachers=names, spearman=spearman, kendall=kendall)
    return record.model_copy(update={"teachers": teachers, "agreement": agreement if len(names) > 1 else None})


def bare(teachers: Mapping[str, float]) -> StudyRecord:
    """A study that has run nothing yet."""
    return StudyRecord(
        name="mobilenetv2-fashion-mnist",
        state="running",
        command="autodistill search --student mobilenetv2:0.25 --data fashion-mnist --budget 26",
        student=student(),
        data=data(),
        space={
            "methods": ["isats", "ts"],
            "train": {"epochs": EPOCHS_FULL, "lr": 0.1},
            "search": {"soft_weight": [0.1, 0.9]},
        },
        plan=plan(),
        teachers=tuple(
            teacher(name, val_top1=accuracy, size=size % 8) for size, (name, accuracy) in enumerate(teachers.items())
        ),
        environment={
            "python": "3.11.7",
            "platform": "Linux x86_64",
            "packages": {"torch": "2.15.0", "optuna": "5.0.0"},
            "device": "cpu (2 threads)",
        },
    )


def confirmed(table: Mapping[str | None, Sequence[float | None]], *, seed: int = 1000) -> StudyRecord:
    """A study by its confirm runs alone: test accuracy by finalist, one column per seed, None a failed run."""
    names = [name for name in table if name is not None]
    return bare(dict.fromkeys(names, 0.9)).model_copy(
        update={
            "state": "complete",
            "finalists": tuple(
                finalist(name, {seed + column: test for column, test in enumerate(scores)}, search_val_top1=0.8)
                for name, scores in table.items()
            ),
        }
    )


def with_settings(record: StudyRecord, settings: Mapping[str, TrialParams]) -> StudyRecord:
    """The same study with other settings for these finalists; a configuration may name any teacher or none."""
    finalists = []
    for one in record.finalists:
        if one.teacher in settings:
            params = settings[one.teacher].model_copy(update={"teacher": one.teacher})
            runs = tuple(run.model_copy(update={"params": params}) for run in one.runs)
            one = one.model_copy(update={"params": params, "runs": runs})
        finalists.append(one)
    return record.model_copy(update={"finalists": tuple(finalists)})


def with_control(
    record: StudyRecord, params: TrialParams, scores: Mapping[int, float | None], *, regime: str = "shared"
) -> StudyRecord:
    """The same study with one more fair control: test accuracy by seed, None a failed run."""
    folder = f"controls/{regime}-{params.teacher}"
    runs = [
        failed_run(f"{folder}-{seed}", params, seed=seed)
        if test is None
        else run(f"{folder}-{seed}", params, val=test, test=test, seed=seed)
        for seed, test in scores.items()
    ]
    control = ControlRecord.model_validate(
        {"regime": regime, "teacher": params.teacher, "params": params, "runs": tuple(runs)}
    )
    return record.model_copy(update={"controls": (*record.controls, control)})


def study(
    trials: int = 20,
    *,
    teachers: Mapping[str, float] = LADDER,
    state: str | None = None,
    seeds: int = 3,
) -> StudyRecord:
    """A whole study; `state` forces one on all trials, `seeds` 0 leaves it unconfirmed."""
    noise = random.Random(7)
    names = list(teachers)
    quality = {name: 0.79 - 0.008 * abs(rank - 0.66 * len(names)) for rank, name in enumerate(names)}
    done = [
        _trial(number, names[number % len(names)], quality, forced=state, prior=number < len(names), noise=noise)
        for number in range(trials)
    ]
    record = bare(teachers)
    finalists = _finalists(quality, seeds, noise) if state is None and trials else ()
    update = {
        "trials": tuple(done),
        "state": "complete",
        "no_teacher": finalists[0].runs[0] if finalists else run("baselines/none", TrialParams(), val=0.776),
        "plain_kd": run("baselines/kd", kd(names[-1]), val=0.7745),
        "finalists": finalists,
        "importance": _importance(trials),
        "timing": {
            "phases_s": {"teachers": 21.4, "search": 190.0, "confirm": 77.25},
            "runs_s": {"baselines/plain-kd": 30.0, "trials/0000/rung": 11.0},
            "parts_s": {"teacher": 4.0, "cache": 0.5, "student": 35.0, "evaluation": 1.5},
            "views_computed": 48,
        },
    }
    if state == "failed":
        update |= {"no_teacher": failed_run("baselines/none", TrialParams()), "plain_kd": None}
    record = record.model_copy(update=update)
    return record.model_copy(update={"spent_epochs": sum(len(one.curve) for one in record.runs())})


def _trial(
    number: int, name: str, quality: Mapping[str, float], *, forced: str | None, prior: bool, noise: random.Random
) -> TrialRecord:
    score = quality[name] + noise.gauss(0, 0.006)
    state = forced or ("complete" if prior else noise.choice(["pruned", "pruned", "pruned", "complete", "failed"]))
    params = isats(name) if prior else params_of(name, noise)
    return trial(number, params, state=state, score=score, kind="prior" if prior else "search")


def _finalists(quality: Mapping[str, float], seeds: int, noise: random.Random) -> tuple[FinalistRecord, ...]:
    best = sorted(quality, key=lambda name: -quality[name])[:2]
    means = {None: 0.772, **{name: quality[name] + 0.004 for name in best}}
    columns = [(1000 + column, noise.gauss(0, 0.003)) for column in range(seeds)]
    return tuple(
        finalist(
            name,
            {seed: mean + shared + noise.gauss(0, 0.0012) for seed, shared in columns},
            search_val_top1=mean + 0.004,
        )
        for name, mean in means.items()
        if seeds
    )


def _importance(trials: int) -> ImportanceRecord:
    if trials < 10:
        return ImportanceRecord(n=trials, note=f"{trials} scored trials: too few, importance takes 10")
    return ImportanceRecord(
        n=trials,
        evaluator_seeds=5,
        shares={"teacher": 0.61, "soft_weight": 0.24, "method": 0.15},
        shares_std={"teacher": 0.03, "soft_weight": 0.05, "method": 0.04},
        within_method={"isats": {"target_ratio": 0.7, "soft_weight": 0.3}, "ts": {"tau": 0.6, "soft_weight": 0.4}},
        within_method_std={"isats": {"target_ratio": 0.1, "soft_weight": 0.1}, "ts": {"tau": 0.1, "soft_weight": 0.1}},
        within_method_n={"isats": trials - 4, "ts": 4},
    )


def hostile_names(count: int) -> dict[str, float]:
    """Names that attack HTML, markdown and charts, of up to 250 characters, with an accuracy each."""
    names = [f"{HOSTILE[number % len(HOSTILE)]} {number} {'x' * 7 * (number % 30)}" for number in range(count)]
    return {name: 0.6 + 0.3 * number / count for number, name in enumerate(names)}


STUDIES: dict[str, Callable[[], StudyRecord]] = {
    "nothing": lambda: bare({}),
    "0 trials": lambda: study(0),
    "1 trial": lambda: study(1, teachers={"only": 0.9}),
    "20 trials": study,
    "1000 trials": lambda: study(1000),
    "all pruned": lambda: study(20, state="pruned"),
    "all failed": lambda: study(20, state="failed"),
    "still running": lambda: study(6, state="running"),
    "unconfirmed": lambda: study(20, seeds=0),
    "one seed": lambda: study(20, seeds=1),
    "one teacher": lambda: study(20, teachers={"only": 0.9}),
    "40 hostile teachers": lambda: study(120, teachers=hostile_names(40)),
    "profiled": lambda: profiled(study()),
    "profiled, 1 teacher": lambda: profiled(study(1, teachers={"only": 0.9})),
    "profiled, 40 hostile teachers": lambda: profiled(study(120, teachers=hostile_names(40))),
}
