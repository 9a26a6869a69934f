"""What the size of the test set alone leaves open: the sampling error of an accuracy and of a paired difference."""

import math


def accuracy_error(accuracy: float, *, images: int) -> float:
    """Binomial standard error of an accuracy."""
    return math.sqrt(max(0.0, accuracy * (1 - accuracy)) / images)


def difference_error(one: float, other: float, *, images: int) -> tuple[float, float]:
    """Least and largest standard error of a difference of two accuracies on the same images.

    With a share q of the images on which exactly one of the two is right, the difference d has the variance
    (q - d^2) / images (McNemar 1947). The accuracies leave q open between |d|, where one is right wherever the other
    is, and the smaller of the two's errors and successes in sum, where they err on different images.
    """
    difference = abs(one - other)
    most = min(one + other, 2 - one - other)

    def error(only_one_right: float) -> float:
        return math.sqrt(max(0.0, only_one_right - difference**2) / images)

    return error(difference), error(most)
