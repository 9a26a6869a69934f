"""The registries' names, which a search space may use."""

from autodistill.data import DATASETS
from autodistill.losses import LOSSES
from autodistill.models import MODELS
from autodistill.rules import RULES
from autodistill.space import Known

KNOWN = Known(
    datasets=tuple(DATASETS),
    architectures=tuple(MODELS),
    rules={name: rule.params for name, rule in RULES.items()},
    losses=tuple(LOSSES),
)
