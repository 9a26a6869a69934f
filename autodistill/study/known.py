"""The registries' names, which a search space may use."""

from autodistill.config import Known
from autodistill.data import DATASETS
from autodistill.methods import RULES
from autodistill.methods.losses import LOSSES
from autodistill.models import MODELS

KNOWN = Known(
    datasets=tuple(DATASETS),
    architectures=tuple(MODELS),
    rules={name: rule.params for name, rule in RULES.items()},
    losses=tuple(LOSSES),
)
