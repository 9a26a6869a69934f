"""Training of one network: the loop, its step, how steps are executed, and how a run is checkpointed.

The training package imports no Optuna and prints nothing.
"""

from autodistill.training.checkpoints import Recipe
from autodistill.training.execution import EAGER, Execution
from autodistill.training.loop import evaluate, train
from autodistill.training.step import learning_rate
from autodistill.training.supervision import SoftTargets, Supervision, supervise

__all__ = [
    "EAGER",
    "Execution",
    "Recipe",
    "SoftTargets",
    "Supervision",
    "evaluate",
    "learning_rate",
    "supervise",
    "train",
]
