"""Logit standardisation: the z-score of each sample's logits over the classes, before the temperature.

The student then learns the shape of the teacher's logits, not their size: the result does not change when a constant
is added to all logits of a sample, or when they are multiplied by a positive constant.

Source: Sun et al., CVPR 2024, arXiv 2403.01427, and the public code sunshangquan/logit-standardization-KD.
"""

import math
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
    # The result does not depend on this shift, nor does the gradient. Equal logits become exact zeros, which their
    # differences to a rounded mean need not be.
    shifted = logits.float()
    shifted = shifted - shifted.detach()[:, :1]
    centred = shifted - shifted.mean(dim=1, keepdim=True)
    deviation: Tensor = torch.linalg.vector_norm(centred, dim=1, keepdim=True) / math.sqrt(max(1, logits.shape[1] - 1))
    return centred / (deviation.masked_fill(deviation == 0, 1.0) + EPSILON)


LOGITS: dict[str, Callable[[Tensor], Tensor]] = {"raw": Tensor.float, "standardised": standardise}
"""Forms in which TS and DKD take the logits of teacher and student: functions to float32 logits."""
