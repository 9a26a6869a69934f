"""Numbers, names and costs as text for readers. Accuracies are shown to 0.1 points."""

import html
import re
import shlex
import unicodedata
from collections.abc import Callable, Sequence
from decimal import Decimal

from autodistill.records import Contrast, CostKind, LeftOutRecord, StudentBudget, StudentRecord, TrialParams, costs_of

EMPTY = "\N{EN DASH}"
"""Text of a table cell without a value."""
MAX_NAME = 64
TOO_FEW, TOO_WIDE = "too few seeds", "interval wider than 50 points"
COSTS: dict[CostKind, str] = {"params": "params", "macs": "MACs", "size_bytes": "size", "latency_ms": "latency"}

_CREDENTIALS = re.compile(r"(\w+://[^\s:/@\"]*:)[^\s/@\"]+@")
_MARKDOWN = re.compile(r"[\\`*\[\]|~$]|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])")


def percent(fraction: float) -> str:
    """Format a fraction as per cent: `71.3 %`."""
    return f"{100 * fraction:.1f} %"


def maybe(fraction: float | None) -> str:
    """Format a fraction as per cent, None as a dash."""
    return EMPTY if fraction is None else percent(fraction)


def points(difference: float) -> str:
    """Format a difference in points of accuracy with its sign, never as minus zero: `+1.3`."""
    return f"{round(100 * difference, 1) + 0.0:+.1f}"


def probability(share: float | None) -> str:
    """Format a Monte Carlo probability, which is never certain; None as a dash."""
    if share is None:
        return EMPTY
    return "< 0.01" if share < 0.01 else "> 0.99" if share > 0.99 else f"{share:.2f}"


def count(number: int | float | None) -> str:
    """Format a large number with a unit prefix: `1.25 M`; None as `unknown`."""
    if number is None:
        return "unknown"
    rounded = float(f"{number:.3g}")  # before the prefix is chosen: 999,500 is 1 M, not 1000 k
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if rounded >= size:
            return f"{_three_digits(rounded / size)} {unit}"
    return f"{number:g}"


def amount(kind: CostKind, number: int | float) -> str:
    """Format a cost with its unit: `2.5 M params`, `100 M MACs`, `10 MB`, `5 ms`."""
    if kind == "size_bytes":
        return f"{count(number)}B"
    return f"{_three_digits(number)} ms" if kind == "latency_ms" else f"{count(number)} {COSTS[kind]}"


def _three_digits(number: int | float) -> str:
    """Format a number with three significant digits and without an exponent."""
    return f"{Decimal(f'{number:.3g}'):f}"


def quantity(kind: CostKind, number: int | float) -> str:
    """Format a cost for a column whose heading names it: `2.5 M`, `10 MB`, `5 ms`."""
    return amount(kind, number).removesuffix(f" {COSTS[kind]}")


def about(seconds: float) -> str:
    """Format an estimated time: `8 s`, `45 s`, `12 min`, `2.5 h`."""
    if seconds < 10:
        return f"{seconds:.0f} s"
    if seconds < 97.5:
        return f"{5 * round(seconds / 5)} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def duration(seconds: int | float) -> str:
    """Format a measured time: `41.2 s`, `5 min 01 s`, `2 h 07 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


RUNS = {
    r"trials/0*(\d+)/rung": "trial {}, rung",
    r"trials/0*(\d+)/full": "trial {}, full run",
    r"baselines/plain-kd": "plain KD",
    r"baselines/no-teacher-(\d+)": "no teacher, seed {}",
    r"baselines/label-smoothing-(\d+)": "label smoothing, seed {}",
    r"(reruns|confirm)/plain-kd-(\d+)": "{} of plain KD, seed {}",
    r"(reruns|confirm)/0*(\d+)-(\d+)": "{} of trial {}, seed {}",
    r"(reruns|confirm)/shared-(\d+)-(\d+)": "{} of the shared configuration with teacher {}, seed {}",
    r"controls/default-0*(\d+)-(\d+)": "control {} with the prior, seed {}",
    r"controls/shared-0*(\d+)-(\d+)": "control {} with the shared configuration, seed {}",
    r"controls/shared-(\d+)-(\d+)-(\d+)": "setting for all teachers of method {} with teacher {}, seed {}",
    r"controls/own-0*(\d+)-(\d+)": "control {} with the own configuration, seed {}",
    r"audit/0*(\d+)": "audit of trial {}",
}
"""Names of runs as regular expressions, and the words for them."""
KINDS = {"reruns": "rerun", "confirm": "confirm run"}


def run_words(run: str) -> str:
    """Say in words which run of a study a name stands for: `trials/0003/rung` is `trial 3, rung`."""
    for pattern, words in RUNS.items():
        if match := re.fullmatch(pattern, run):
            return words.format(*(KINDS.get(part, part) for part in match.groups()))
    return run


def listed(names: Sequence[str]) -> str:
    """Join names: `a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def plural(number: int, noun: str) -> str:
    """Format a number with its noun: `1 seed`, `1,000 seeds`, `2 classes`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}{'es' if noun.endswith('s') else 's'}"


def short(text: str, longest: int = MAX_NAME) -> str:
    """Put a name on one line and cut a long name in its middle, because either end may tell names apart."""
    text = " ".join(text.split())
    if len(text) <= longest:
        return text
    tail = longest // 3
    return f"{text[: longest - tail - 1]}\N{HORIZONTAL ELLIPSIS}{text[-tail:]}"


def origin(student: StudentRecord) -> str:
    """Say what a student starts from, and what its seeds vary."""
    foreign = student.foreign
    if foreign is None or not foreign.weights:
        return "freshly initialised"
    varied = "order of the batches and the new head only" if foreign.fresh else "order of the batches only"
    return f"pretrained weights ({short(foreign.weights)}); seeds vary the {varied}"


def interval(
    low: float | None, high: float | None, text: Callable[[float], str] = points, *, enough: bool = False
) -> str:
    """Format an interval, `+0.8 to +2.2`, or the reason why it is missing.

    Args:
        low: Lower end; None if the interval is missing.
        high: Upper end; None if the interval is missing.
        text: Formats an end.
        enough: Whether there are two seeds or more; an interval is then missing only because it is too wide.
    """
    if low is None or high is None:
        return TOO_WIDE if enough else TOO_FEW
    return f"{text(low)} to {text(high)}"


def sure(low: float | None, high: float | None, text: Callable[[float], str] = points, *, enough: bool = False) -> str:
    """Format an interval with its level, `95 % interval +0.8 to +2.2`, or the reason why it is missing."""
    found = interval(low, high, text, enough=enough)
    return {TOO_FEW: f"{TOO_FEW} for an interval", TOO_WIDE: TOO_WIDE}.get(found, f"95 % interval {found}")


def parameter(value: float | str) -> str:
    """Format the value of a parameter with three digits; text stays as it is."""
    return value if isinstance(value, str) else f"{value:.3g}"


METHOD_SOURCES = {
    "ts": "Hinton, Vinyals, Dean. Distilling the knowledge in a neural network. 2015. arXiv:1503.02531",
    "ats": "Li et al. Asymmetric temperature scaling makes larger networks teach well again. NeurIPS 2022",
    "isats": "Fan, Li, Zhan. Frontiers of Computer Science, 2026. doi:10.1007/s11704-025-41434-w, arXiv:2405.13078",
    "dkd": "Zhao et al. Decoupled knowledge distillation. CVPR 2022. arXiv:2203.08679",
    "dist": "Huang et al. Knowledge distillation from a stronger teacher. NeurIPS 2022. arXiv:2205.10536",
    "nkd": "Yang et al. From knowledge distillation to self-knowledge distillation. ICCV 2023. arXiv:2303.13005",
    "ttm": "Zheng, Yang. Knowledge distillation based on transformed teacher matching. ICLR 2024. arXiv:2402.11148",
    "wttm": "Zheng, Yang. Knowledge distillation based on transformed teacher matching. ICLR 2024. arXiv:2402.11148",
}
"""Publications of the methods."""


def method_label(name: str) -> str:
    """Return the name of a method for a reader: `ISATS`, and `my_loss` for `python:FILE.py:my_loss`."""
    return name.rpartition(":")[2] if name.startswith("python:") else name.upper()


def recipe(params: TrialParams) -> str:
    """Format the settings of a configuration: `ISATS (target ratio 1.67), soft weight 0.5`."""
    if params.teacher is None and params.method is None:
        smoothing = params.method_params.get("label_smoothing")
        return "no teacher" if smoothing is None else f"no teacher, label smoothing {parameter(smoothing)}"
    settings = [f"{key.replace('_', ' ')} {parameter(value)}" for key, value in sorted(params.method_params.items())]
    if params.tau_student != 1:
        settings.append(f"tau student {parameter(params.tau_student)}")
    inside = f" ({', '.join(settings)})" if settings else ""
    weight = "" if params.soft_weight is None else f", soft weight {parameter(params.soft_weight)}"
    return f"{method_label(params.method or 'no method')}{inside}{weight}"


def contrast_words(contrast: Contrast) -> str:
    """Format a contrast: `+1.5 points over no teacher (95 % interval +0.8 to +2.2)`."""
    size = f"{points(contrast.difference)} points"
    if contrast.versus is None:
        size += " over no teacher" if (contrast.low or 0) > 0 else " against no teacher"
    return f"{size} ({sure(contrast.low, contrast.high, enough=contrast.at_least is not None)})"


def contrast_interval(contrast: Contrast) -> str:
    """Format the interval of a contrast, or the reason why it is missing."""
    return interval(contrast.low, contrast.high, enough=contrast.at_least is not None)


def limits_words(limits: StudentBudget) -> str:
    """Format the limits on a student as one phrase: `2.5 M params and 5 ms`."""
    return " and ".join(amount(kind, limit) for kind, limit in limits.given.items())


def excess_words(left_out: LeftOutRecord, limits: StudentBudget) -> str:
    """Format the costs by which a student breaks its limits: `3.5 M params (limit 2.5 M params)`."""
    costs = costs_of(left_out.student.cost, left_out.latency)
    return ", ".join(
        f"{amount(kind, costs[kind])} (limit {amount(kind, limits.given[kind])})" for kind in left_out.excess
    )


def command_line(*words: object, **options: str | Sequence[str] | None) -> str:
    """Format a command of autodistill for a shell; options without a value are left out, lists repeat their flag."""
    parts = [str(word) for word in words]
    for name, given in options.items():
        for value in [given] if isinstance(given, str) else given or ():
            parts += [f"--{name}", value] if value else []
    return shlex.join(["autodistill", *parts])


def redact(text: str) -> str:
    """Hide the password of every URL."""
    return _CREDENTIALS.sub(r"\1***@", text)


def clean(text: str) -> str:
    """Replace control, direction and surrogate characters in a user's text, and hide the passwords of URLs."""
    if text.isascii() and text.isprintable():
        return redact(text)
    shown = (
        char
        if char in "\n\r\t" or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co")
        else "\N{REPLACEMENT CHARACTER}"
        for char in text
    )
    return redact("".join(shown))


def markdown(text: str) -> str:
    """Escape text for markdown on one line, so that it fits a table cell."""
    flat = html.escape(" ".join(text.split()), quote=False)
    return _MARKDOWN.sub(lambda match: "\\" + match.group(), flat)
