"""The search space: its schema, and how it is loaded, overridden, checked and written."""

from autodistill.config.loading import Known, dump, load, parse, shipped
from autodistill.config.schema import (
    Choice,
    ConfirmSpec,
    DataSpec,
    Dimension,
    LadderSpec,
    PlainKDSpec,
    PriorSpec,
    Range,
    SearchSpec,
    Space,
    Spec,
    StudentSpec,
    TrainingSpec,
    bounds,
)

__all__ = [
    "Choice",
    "ConfirmSpec",
    "DataSpec",
    "Dimension",
    "Known",
    "LadderSpec",
    "PlainKDSpec",
    "PriorSpec",
    "Range",
    "SearchSpec",
    "Space",
    "Spec",
    "StudentSpec",
    "TrainingSpec",
    "bounds",
    "dump",
    "load",
    "parse",
    "shipped",
]
