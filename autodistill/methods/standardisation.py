"""Logit standardisation: the z-score of each sample's logits over the classes, before the temperature.

The student then learns the shape of the teacher's logits, not their size: the result does not change when a constant
is added to all logits of a sample, or when they are multiplied by a positive constant.

Source: Sun et al., CVPR 2024, arXiv 2403.01427, and the public code sunshangquan/logit-standardization-KD.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

EPSILON = 1e-7
"""Number that the public code adds to the standard deviation."""


def standardise(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, "batch classes"]:
    """Compute (z - mean) / (EPSILON + std) of each sample over the classes, in float32.

    The standard deviation is the one of the public code, with divisor C - 1 for C classes. With divisor C the result
    would be sqrt(C / (C - 1)) times larger, as after a temperature that is as many times smaller: 0.5 % with 100
    classes, 5 % with 10.

    Equal logits become zeros. In the public code the gradient there is about 1 / EPSILON, which ruins a student whose
    last layer starts at zero. Here the standard deviation of equal logits counts as 1.

    On CIFAR-100 the authors use temperature 2 (3 or 4 for some pairs). With TS the soft term has weight 9 (1 to 12) and
    the cross-entropy weight 0.1; with DKD alpha and beta are multiplied by 9 to 18.
    """
    # Equal logits leave exact zeros, which no mean of rounded values would.
    shifted = logits.float()
    shifted = shifted - shifted[:, :1]
    variance, mean = torch.var_mean(shifted, dim=1, keepdim=True)
    return (shifted - mean) / (variance.masked_fill(variance <= 0, 1.0).sqrt() + EPSILON)


LOGITS: dict[str, Callable[[Tensor], Tensor]] = {"raw": Tensor.float, "standardised": standardise}
"""Forms in which TS and DKD take the logits of teacher and student: functions to float32 logits."""
