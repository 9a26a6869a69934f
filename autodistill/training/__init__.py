"""Training of one network: the loop, its step, how steps are executed, and how a run is checkpointed.

The training package imports no Optuna and prints nothing.
"""

from autodistill.training.adapting import adapt_teacher
from autodistill.training.assisting import train_assistant
from autodistill.training.loop import evaluate, train, train_teacher
from autodistill.training.step import EAGER, Execution, Recipe
from autodistill.training.supervision import Supervision, TeacherView, supervise

__all__ = [
    "EAGER",
    "Execution",
    "Recipe",
    "Supervision",
    "TeacherView",
    "adapt_teacher",
    "evaluate",
    "supervise",
    "train",
    "train_assistant",
    "train_teacher",
]
