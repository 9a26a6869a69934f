"""The public Python API: `search`, `compare`, `load_study` and `Study`. The command line calls the same functions.

import autodistill as ad

study = ad.search("mobilenetv2:0.5", teachers=["file:r56.pth?norm=imagenet"], data="folder:photos", budget=20)
print(study.recommendation.sentence)
"""

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import Any, Literal

from autodistill.errors import ConfigError, near
from autodistill.export import Exported, chosen
from autodistill.methods import OWN
from autodistill.objects import Images, Network, Passed, importable
from autodistill.options import COMPARED, search_options, students_to_search
from autodistill.records import (
    ComparisonRecord,
    MethodVerdict,
    Recommendation,
    ScoreRow,
    StudentChoice,
    StudentRow,
    StudyRecord,
    TrainedRecord,
    read_record,
)
from autodistill.running import one_thread_after_fork, run_searches
from autodistill.shipping import export_study, train_student
from autodistill.studies import REPORTS, TeacherLine, folder_of, judged_record, rendered, teacher_lines
from autodistill.usercode import USER_FILE

Kind = Literal["local", "serial", "ray"]
"""Who trains: worker processes of this machine, this process, or a Ray cluster."""


class Study:
    """A search that has run. `search` and `load_study` return it.

    Attributes:
        name: Name of the study.
        folder: Folder of the study, with `study.json` in it.
        record: Everything that the study has recorded; a `ComparisonRecord` if it searched several students.
    """

    def __init__(self, folder: Path, *, passed: Passed | None = None) -> None:
        self.folder = Path(folder)
        self.record: StudyRecord | ComparisonRecord = judged_record(read_record(self.folder / "study.json"))
        self.name = self.record.name
        self._passed = passed or Passed()

    @property
    def recommendation(self) -> Recommendation | StudentChoice | MethodVerdict | None:
        """The recommended teacher and settings; None for a study that is not finished.

        Of several students it is the student to ship, of `compare` the verdict about the methods. `.sentence` says it
        in words, `.reasons` says why. Accuracies are fractions in [0, 1].
        """
        record = self.record
        if isinstance(record, ComparisonRecord):
            return record.choice
        return record.grid.verdict if record.grid is not None else record.recommendation

    def leaderboard(self) -> list[TeacherLine] | list[StudentRow] | list[ScoreRow]:
        """Return a row for each teacher, the best first; of several students a row for each student.

        Of `compare`, a row for each cell, a method with a teacher.

        The rows are named tuples of a search for one student, so that `pandas.DataFrame(study.leaderboard())` is a
        table. `test`, `low`, `high` (95 % interval), `val` and `own` are fractions in [0, 1]; `test` is None for
        teachers without confirm runs, and `own` is the teacher's own validation accuracy.
        """
        record = self.record
        if isinstance(record, StudyRecord) and record.grid is not None:
            return list(record.grid.verdict.cells) if record.grid.verdict else []
        if isinstance(record, StudyRecord):
            return teacher_lines(record)
        return list(record.choice.rows) if record.choice else []

    def report(self, path: str | Path | None = None) -> Path:
        """Write the report (HTML, markdown, JSON, charts) and return the path of its page.

        Args:
            path: Folder to write; None: `reports/NAME`.

        Raises:
            StoreError: The folder cannot be written.
        """
        to = Path(path) if path is not None else REPORTS / self.name
        return rendered(self.record, to)

    @one_thread_after_fork()
    def train(
        self,
        path: str | Path = "student.safetensors",
        *,
        seed: int = 0,
        with_validation: bool = False,
        device: str = "auto",
        offline: bool = False,
        progress: bool = True,
    ) -> TrainedRecord:
        """Train the recommended student anew, in full, and write its weights.

        The weights are not those of the study's confirm runs, which `export` takes.

        Args:
            path: New file for the weights, in safetensors.
            seed: Seed of initialisation and batch order.
            with_validation: Train on training and validation images; score on test only.
            device: Device of the training: cpu, cuda, cuda:N, or auto.
            offline: Download nothing.
            progress: Show the progress.

        Returns:
            How the student was trained, with `val_top1` and `test_top1` as fractions in [0, 1].

        Raises:
            StoreError: The file exists, or the study has no recommendation.
            DataError, TeacherError: The data or the teacher are not those of the study.
        """
        options = search_options(device=device, offline=offline)
        with self._passed.importable():
            _, trained = train_student(
                options,
                run=str(self.folder),
                seed=seed,
                to=Path(path),
                with_validation=with_validation,
                quiet=not progress,
            )
        return trained

    @one_thread_after_fork()
    def export(
        self, path: str | Path | None = None, *, formats: Sequence[str] = (), weights: str | Path | None = None
    ) -> Exported:
        """Write the recommended student for deployment, with a model card. Each file is read back and verified.

        Args:
            path: New folder; None: `exports/NAME`.
            formats: `safetensors`, `pt2`, `onnx`; empty: all whose packages are installed.
            weights: Weights that `train` wrote; None: those of the best confirm run on validation.

        Returns:
            The files with their sizes in bytes and the largest difference of their logits from the student's.

        Raises:
            StoreError: The folder exists, or there is no recommendation or no file of weights.
            ConfigError: A format is unknown or not installed, or the weights are those of another student.
            DataError, TeacherError: The data or the teacher are not those of the study.
            ExportError: A format cannot represent the student unchanged.
        """
        with self._passed.importable():
            _, found = export_study(
                str(self.folder),
                to=Path(path) if path is not None else None,
                formats=chosen(formats if isinstance(formats, str) else ",".join(formats)),
                weights=Path(weights) if weights is not None else None,
            )
        return found

    def __repr__(self) -> str:
        said = self.recommendation.sentence if self.recommendation else "not finished"
        return f"<autodistill.Study {self.name!r}: {said}>"


def search(  # noqa: PLR0913 - the options of a search
    student: Network | list[Network],
    *,
    teachers: Network | Sequence[Network] = (),
    data: Images = "",
    budget: int | float | str = "",
    executor: Kind = "local",
    space: str = "",
    settings: Mapping[str, object] | None = None,
    study: str = "",
    seed: int | None = None,
    device: str = "auto",
    workers: int | str = "auto",
    progress: bool = True,
    **options: Any,
) -> Study:
    """Find the best teacher for each student within a budget. The same call resumes a study.

    Networks are names, URIs (`python:nets.py:resnet20`) or functions that return an `nn.Module`; a student's function
    may take `num_classes`, `in_channels` and `image_size` (height and width in pixels). A teacher may also be an
    `nn.Module` with its weights, or a pair of a network and options of its URI:
    `(resnet20, {"weights": "resnet20.th", "norm": "imagenet"})`. Networks take float32 images of shape (batch,
    channels, height, width), normalised as the options say, and return logits of shape (batch, classes).

    Args:
        student: Network to train, or several.
        teachers: Trained networks to choose from, or one; empty: the space's.
        data: Name or URI of the images, a function that returns datasets, or a dataset of `(image, label)` pairs; see
            docs/teachers.md and docs/extending.md. Empty: the space's.
        budget: Total cost: 20 (full trainings), "600ep" (epochs), "8h" or "30min" (time). Empty: the space's.
        executor: `local`: worker processes of this machine; `serial`: this process, which takes any object; `ray`: a
            Ray cluster. Worker processes import networks, so their functions must be importable.
        space: Name of a shipped search space, or a TOML file. Empty: the dataset's.
        settings: Values of the space by key, such as `{"training.epochs": 60}` or `{"training": {"epochs": 60}}`.
        study: Name of the study, new or to resume.
        seed: Seed of search and training. None: the space's.
        device: cpu, cuda, cuda:N, or auto.
        workers: Number of worker processes, or auto.
        progress: Show the progress on stderr, or in the output of a notebook's cell.
        **options: The other options of `autodistill search`: `max_params`, `max_macs`, `max_size`, `max_latency`,
            `max_trials`, `audit_pruning`, `timeout`, `cache_size`, `storage`, `offline`, `download`; with
            `executor="ray"` also `per_gpu`, `insecure` and `ray` (the address of the cluster).

    Raises:
        ConfigError: An argument is wrong, or an object cannot be sent to worker processes.
        DataError, TeacherError, StoreError: Data, a teacher or the study's folder cannot be used.
    """
    return _run(
        student if isinstance(student, list) else [student],
        teachers,
        data,
        budget,
        common={"space": space, "study": study, "seed": seed, "device": device, "workers": workers},
        executor=executor,
        settings=settings,
        progress=progress,
        options=options,
        name="search",
    )


def compare(  # noqa: PLR0913 - the options of a method grid
    student: str | Network,
    teachers: str | Network | Sequence[str | Network] = (),
    methods: str | Callable[..., Any] | Sequence[str | Callable[..., Any]] = (),
    data: str | Images = "",
    budget: int | float | str = "",
    *,
    executor: Kind = "local",
    space: str = "",
    settings: Mapping[str, object] | None = None,
    study: str = "",
    seed: int | None = None,
    device: str = "auto",
    workers: int | str = "auto",
    progress: bool = True,
    **options: Any,
) -> Study:
    """Compare distillation methods over several teachers. The same call resumes the study.

    Each method is tuned for each teacher at equal cost on validation. The best settings are then trained over the same
    new seeds and compared on test, beside training without a teacher and with label smoothing.

    Args:
        student: Network to train.
        teachers: Trained networks, one or several; empty: the space's.
        methods: Names such as `ts`, or functions of yours as in docs/extending.md, which must be importable; one or
            several. Empty: TS, ISATS and DKD.
        data: As for `search`.
        budget: As for `search`. Empty: 3 settings for each method and teacher.
        executor: As for `search`.
        space: As for `search`.
        settings: As for `search`.
        study: Name of the study, new or to resume.
        seed: As for `search`.
        device: As for `search`.
        workers: As for `search`.
        progress: As for `search`.
        **options: The other options of `autodistill compare`: `timeout`, `cache_size`, `storage`, `offline`,
            `download`; with `executor="ray"` also `per_gpu`, `insecure` and `ray` (the address of the cluster).

    Returns:
        The study; `study.record.grid.verdict` is the verdict about the methods, `study.report()` writes the report.

    Raises:
        ConfigError, DataError, TeacherError, StoreError: As for `search`.
    """
    several = [methods] if isinstance(methods, str) or callable(methods) else methods
    names = [_method(it, place) for place, it in enumerate(several)]
    return _run(
        [student],
        teachers,
        data,
        budget,
        common={"space": space, "study": study, "seed": seed, "device": device, "workers": workers},
        executor=executor,
        settings=settings,
        progress=progress,
        options={**options, "methods": names or COMPARED, "default_methods": not names},
        name="compare",
    )


def _method(given: str | Callable[..., Any], place: int) -> str:
    """Return the name of a method that is a name already, or a function that can be imported."""
    if isinstance(given, str):
        return given
    target = importable(given)
    if target is None:
        raise ConfigError(
            f"methods[{place}]: {given!r} cannot be imported",
            "define the function in a file, or name python:FILE.py:NAME",
        )
    return f"python:{target}"


def _run(  # noqa: PLR0913 - the arguments of `search`
    students: Sequence[str | Network],
    teachers: str | Network | Sequence[str | Network],
    data: str | Images,
    budget: int | float | str,
    *,
    common: Mapping[str, Any],
    executor: Kind,
    settings: Mapping[str, object] | None,
    progress: bool,
    options: dict[str, Any],
    name: Literal["search", "compare"],
) -> Study:
    """Run a search or a method grid. `common` holds the arguments of both that are passed on as they are."""
    _refuse_nested()
    _check_options(options, executor, name=name)
    passed = Passed(anything=executor == "serial", datasets=executor != "ray")
    if executor == "ray":
        options["ray"] = options.get("ray") or "auto"
    if not students:
        raise ConfigError("student: an empty list", "name a network to train, or several")
    # A network is callable; a list of networks is not.
    several = [teachers] if isinstance(teachers, str) or callable(teachers) else teachers
    given = {key: options.pop(key) for key in _TEXTS if key in options}
    texts = {key: str(value) for key, value in given.items() if value not in ("", None)}
    workers = 1 if executor == "serial" else common["workers"]
    asked = students_to_search(
        students=[passed.network(it, "student") for it in students],
        teachers=[passed.network(it, f"teachers[{place}]") for place, it in enumerate(several)],
        data=passed.images(data),
        budget=_budget(budget),
        overrides=[f"{key}={json.dumps(value)}" for key, value in _flat(settings or {})],
        **{**common, "workers": workers},
        **texts,
        **options,
    )
    with passed.importable():
        record = run_searches(
            asked,
            quiet=not progress,
            serial=executor == "serial",
            again=f"call autodistill.{name} with the same arguments",
        )
    return Study(Path(asked.options[0].runs) / record.name, passed=passed)


def load_study(path: str | Path) -> Study:
    """Return a study that has run, given its name or its folder.

    Raises:
        ConfigError: There is no such study; the message lists similar names.
        StoreError: The study is damaged.
    """
    return Study(folder_of(str(path)).path)


_TEXTS = ("max_params", "max_macs", "max_size", "max_latency", "timeout", "cache_size")
"""Options with a unit."""
_OF_SEARCH = ("max_params", "max_macs", "max_size", "max_latency", "max_trials", "audit_pruning")
"""Options that a method grid does not have."""
_OF_RAY: Mapping[str, object] = {"ray": "", "per_gpu": 1, "insecure": False}
"""Options of a Ray cluster, with their defaults."""


def _flat(settings: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield values of nested settings by dotted key; names with dots of their own are quoted, as in TOML."""
    for key, value in settings.items():
        key = json.dumps(key) if key.startswith(OWN) else key
        # An empty table of a method takes the ranges of its source.
        if isinstance(value, Mapping) and (value or not prefix.startswith("search.methods.")):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _budget(value: int | float | str) -> str:
    """Return a budget as the command line takes it: a number without exponent, or the text itself."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ConfigError(f"budget={value!r}: must be a number or a text", "such as 20, '600ep' or '8h'")
    return f"{Decimal(str(value)).normalize():f}"


def _check_options(options: Mapping[str, object], executor: str, *, name: str) -> None:
    own = _OF_SEARCH if name == "search" else ("methods", "default_methods")
    allowed = {*own, "timeout", "cache_size", "storage", "offline", "download", *_OF_RAY}
    for option in options:
        if option not in allowed:
            raise ConfigError(f"{name}() has no argument {option!r} ({near(option, allowed)})")
    if executor not in ("local", "serial", "ray"):
        raise ConfigError(f"executor={executor!r}: unknown", "allowed: 'local', 'serial', 'ray'")
    for name, default in _OF_RAY.items():
        if executor != "ray" and options.get(name, default) != default:
            raise ConfigError(
                f"{name}={options[name]!r}: no option of executor={executor!r}",
                f"leave {name} out, or run on a Ray cluster: executor='ray'",
            )
    for name in ("per_gpu", "max_trials"):
        value = options.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ConfigError(f"{name}={value!r}: must be a whole number of at least 1", "or leave it out")


def _refuse_nested() -> None:
    """Refuse a search that starts while the user's file is imported for one of its functions."""
    frame = inspect.currentframe()
    while frame is not None:
        file = frame.f_globals.get("__file__", "")
        if frame.f_code.co_name == "<module>" and str(frame.f_globals.get("__name__", "")).startswith(USER_FILE):
            raise ConfigError(
                f"{file}: autodistill is called whenever this file is imported, and its functions are imported from it",
                'put the call below `if __name__ == "__main__":`',
            )
        frame = frame.f_back
