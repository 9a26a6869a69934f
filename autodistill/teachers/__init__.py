"""Teachers by URI: safe loading, one way to run them, and the checks that come before any trial.

    file:runs/wrn.safetensors?arch=wrn_40_2&norm=imagenet
    torchvision:resnet50@IMAGENET1K_V2

Only tensors are read: safetensors, or torch files with `weights_only=True`. No checkpoint runs code.
"""

from autodistill.teachers.checkpoints import save
from autodistill.teachers.checks import check, check_logits
from autodistill.teachers.sources import SOURCES, load, name_of
from autodistill.teachers.teacher import Normalisation, Teacher, computed_as, logits_of

__all__ = [
    "SOURCES",
    "Normalisation",
    "Teacher",
    "check",
    "check_logits",
    "computed_as",
    "load",
    "logits_of",
    "name_of",
    "save",
]
