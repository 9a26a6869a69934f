"""Figures, names and costs as a reader meets them. Figures to 0.1 points."""

from collections.abc import Callable, Sequence

from autodistill.records import Contrast, CostKind, LeftOutRecord, StudentBudget, TrialParams, costs_of

LONGEST = 64
TOO_FEW = "too few seeds"
COSTS: dict[CostKind, str] = {"params": "params", "macs": "MACs", "size_bytes": "size", "latency_ms": "latency"}


def percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def points(difference: float) -> str:
    """A signed difference in points of accuracy; never a minus zero."""
    return f"{round(100 * difference, 1) + 0.0:+.1f}"


def probability(share: float | None) -> str:
    """A share of random draws: never certain. None is a dash."""
    if share is None:
        return "\N{EN DASH}"
    return "< 0.01" if share < 0.01 else "> 0.99" if share > 0.99 else f"{share:.2f}"


def count(number: int | float) -> str:
    """A large number as people say it: `1.25 M`."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:g}"


def amount(kind: CostKind, number: int | float) -> str:
    """A cost in its unit: `2.5 M params`, `100 M MACs`, `10 MB`, `5 ms`."""
    if kind == "size_bytes":
        return f"{count(number)}B"
    return f"{number:.3g} ms" if kind == "latency_ms" else f"{count(number)} {COSTS[kind]}"


def about(seconds: float) -> str:
    """A time that is not known to the second: `8 s`, `45 s`, `12 min`, `2.5 h`."""
    if seconds < 10:
        return f"{seconds:.0f} s"
    if seconds < 97.5:
        return f"{5 * round(seconds / 5)} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def limits_words(limits: StudentBudget) -> str:
    """Limits as one phrase: `2.5 M params and 5 ms`."""
    return " and ".join(amount(kind, limit) for kind, limit in limits.given.items())


def excess_words(left_out: LeftOutRecord, limits: StudentBudget) -> str:
    """What a student has of what a limit allows less of: `3.5 M params (limit 2.5 M params)`."""
    costs = costs_of(left_out.student.cost, left_out.latency)
    return ", ".join(
        f"{amount(kind, costs[kind])} (limit {amount(kind, limits.given[kind])})" for kind in left_out.excess
    )


def quantity(kind: CostKind, number: int | float) -> str:
    """A cost under a heading that names it: `2.5 M`, `10 MB`, `5 ms`."""
    return amount(kind, number).removesuffix(f" {COSTS[kind]}")


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def short(text: str, longest: int = LONGEST) -> str:
    """Put a name on one line and cut a long one in its middle: both ends tell names apart."""
    text = " ".join(text.split())
    if len(text) <= longest:
        return text
    tail = longest // 3
    return f"{text[: longest - tail - 1]}\N{HORIZONTAL ELLIPSIS}{text[-tail:]}"


def interval(low: float | None, high: float | None, text: Callable[[float], str] = points) -> str:
    """`+0.8 to +2.2`, or why there is none."""
    return TOO_FEW if low is None or high is None else f"{text(low)} to {text(high)}"


def sure(low: float | None, high: float | None, text: Callable[[float], str] = points) -> str:
    """`95 % interval +0.8 to +2.2`, or why there is none."""
    found = interval(low, high, text)
    return f"{found} for an interval" if found == TOO_FEW else f"95 % interval {found}"


def recipe(params: TrialParams) -> str:
    """A configuration in words: `ISATS (target ratio 1.67), soft weight 0.5`."""
    if params.teacher is None:
        return "no teacher"
    settings = [f"{key.replace('_', ' ')} {_number(value)}" for key, value in sorted(params.rule_params.items())]
    if params.tau_student != 1:
        settings.append(f"tau student {_number(params.tau_student)}")
    inside = f" ({', '.join(settings)})" if settings else ""
    return f"{(params.rule or 'no rule').upper()}{inside}, soft weight {_number(params.soft_weight)}"


def contrast_words(contrast: Contrast) -> str:
    """`+1.5 points over no teacher (95 % interval +0.8 to +2.2)`."""
    size = f"{points(contrast.difference)} points"
    if contrast.versus is None:
        size += " over no teacher" if (contrast.low or 0) > 0 else " against no teacher"
    if contrast.low is None:
        return f"{size} ({TOO_FEW} for an interval)"
    return f"{size} (95 % interval {interval(contrast.low, contrast.high)})"


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"
