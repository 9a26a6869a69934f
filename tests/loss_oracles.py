"""Independent oracles for distillation losses: the formulas of the papers as loops over Python floats.

Each oracle takes rows of logits and returns the cross-entropy with the labels and the soft term without a ramp.
"""

import math
from collections.abc import Callable

Rows = list[list[float]]
Terms = tuple[float, float]


def log_sum_exp(values: list[float]) -> float:
    largest = max(values)
    return largest + math.log(sum(math.exp(value - largest) for value in values))


def log_softmax_loop(row: list[float]) -> list[float]:
    total = log_sum_exp(row)
    return [value - total for value in row]


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def divergence(log_p: list[float], log_q: list[float]) -> float:
    """KL(p || q) from logarithms."""
    return math.fsum(math.exp(a) * (a - b) for a, b in zip(log_p, log_q, strict=True))


def cross_entropy_loop(rows: Rows, labels: list[int]) -> float:
    return mean([-log_softmax_loop(row)[y] for row, y in zip(rows, labels, strict=True)])


def z_score_loop(row: list[float]) -> list[float]:
    """Sun et al. 2024, as in their code: divisor C - 1, and 1e-7 beside the standard deviation."""
    center = mean(row)
    deviation = math.sqrt(math.fsum((v - center) ** 2 for v in row) / (len(row) - 1))
    return [(v - center) / (1e-7 + deviation) for v in row]


def without(row: list[float], label: int) -> list[float]:
    return [v for j, v in enumerate(row) if j != label]


def ts_loop(
    student: Rows,
    teacher: Rows,
    labels: list[int],
    *,
    tau: float,
    tau_student: float,
    logits: str = "raw",
) -> Terms:
    """Hinton et al. 2015: the cross-entropy of the softened probabilities, times tau_student^2."""
    each = []
    for own, given in zip(student, teacher, strict=True):
        shown, seen = (z_score_loop(row) if logits == "standardised" else row for row in (given, own))
        targets = [math.exp(v) for v in log_softmax_loop([v / tau for v in shown])]
        log_probs = log_softmax_loop([v / tau_student for v in seen])
        each.append(-(tau_student**2) * math.fsum(p * q for p, q in zip(targets, log_probs, strict=True)))
    return cross_entropy_loop(student, labels), mean(each)


def smoothed_loop(rows: Rows, labels: list[int], share: float) -> float:
    """Szegedy et al. 2016, section 7: the cross-entropy with (1 - share) one-hot + share / classes."""
    each = []
    for row, y in zip(rows, labels, strict=True):
        log_probs = log_softmax_loop(row)
        targets = [share / len(row) + (1 - share) * (j == y) for j in range(len(row))]
        each.append(-math.fsum(p * q for p, q in zip(targets, log_probs, strict=True)))
    return mean(each)


def dkd_loop(
    student: Rows,
    teacher: Rows,
    labels: list[int],
    *,
    tau: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
    logits: str = "raw",
) -> Terms:
    """Zhao et al. 2022, with the tau^2 of their code."""
    each = []
    for own, given, y in zip(student, teacher, labels, strict=True):
        binary, others = [], []
        for row in (given, own):
            scaled = [v / tau for v in (z_score_loop(row) if logits == "standardised" else row)]
            rest = without(scaled, y)
            binary.append(log_softmax_loop([scaled[y], log_sum_exp(rest)]))
            others.append(log_softmax_loop(rest))
        each.append(tau**2 * (alpha * divergence(*binary) + beta * divergence(*others)))
    return cross_entropy_loop(student, labels), mean(each)


def pearson_loop(a: list[float], b: list[float]) -> float:
    """Huang et al. 2022, with the 1e-8 of their code."""
    x, y = [v - mean(a) for v in a], [v - mean(b) for v in b]
    norms = math.sqrt(math.fsum(v * v for v in x)) * math.sqrt(math.fsum(v * v for v in y))
    return math.fsum(v * w for v, w in zip(x, y, strict=True)) / (norms + 1e-8)


def dist_loop(
    student: Rows,
    teacher: Rows,
    labels: list[int],
    *,
    tau: float = 4.0,
    beta: float = 2.0,
    gamma: float = 2.0,
    scaling: str = "tau_squared",
) -> Terms:
    """Huang et al. 2022; the factor tau^2 is that of their code."""
    q, p = (
        [[math.exp(v) for v in log_softmax_loop([v / tau for v in row])] for row in rows] for rows in (student, teacher)
    )
    inter = 1 - mean([pearson_loop(a, b) for a, b in zip(q, p, strict=True)])
    columns = zip(zip(*q, strict=True), zip(*p, strict=True), strict=True)
    intra = 1 - mean([pearson_loop(list(a), list(b)) for a, b in columns])
    factor = {"tau_squared": tau**2, "none": 1.0}[scaling]
    return cross_entropy_loop(student, labels), factor * (beta * inter + gamma * intra)


def nkd_loop(student: Rows, teacher: Rows, labels: list[int], *, tau: float = 3.0, gamma: float = 3.5) -> Terms:
    """Yang et al. 2023; their lambda is tau."""
    each = []
    for own, given, y in zip(student, teacher, labels, strict=True):
        target = -math.exp(log_softmax_loop(given)[y]) * log_softmax_loop(own)[y]
        p, q = (log_softmax_loop([v / tau for v in without(row, y)]) for row in (given, own))
        others = -math.fsum(math.exp(a) * b for a, b in zip(p, q, strict=True))
        each.append(target + gamma * tau**2 * others)
    return cross_entropy_loop(student, labels), mean(each)


def ttm_loop(student: Rows, teacher: Rows, labels: list[int], *, tau: float = 10.0, beta: float = 45.0) -> Terms:
    """Zheng and Yang 2024: powers 1 / tau of the teacher's probabilities, divided by their sum."""
    each = []
    for own, given in zip(student, teacher, strict=True):
        powers = [v / tau for v in log_softmax_loop(given)]
        total = log_sum_exp(powers)
        each.append(divergence([v - total for v in powers], log_softmax_loop(own)))
    return cross_entropy_loop(student, labels), beta * mean(each)


def wttm_loop(student: Rows, teacher: Rows, labels: list[int], *, tau: float = 5.0, beta: float = 4.0) -> Terms:
    """Zheng and Yang 2024: TTM with the sum of the powers as the weight of each sample."""
    each = []
    for own, given in zip(student, teacher, strict=True):
        powers = [v / tau for v in log_softmax_loop(given)]
        total = log_sum_exp(powers)
        each.append(math.exp(total) * divergence([v - total for v in powers], log_softmax_loop(own)))
    return cross_entropy_loop(student, labels), beta * mean(each)


ORACLES: dict[str, Callable[..., Terms]] = {
    "dkd": dkd_loop,
    "dist": dist_loop,
    "nkd": nkd_loop,
    "ttm": ttm_loop,
    "wttm": wttm_loop,
}
