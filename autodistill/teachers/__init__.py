"""Teachers by URI: loading, running, checks and profiles.

    file:runs/wrn.safetensors?arch=wrn_40_2&norm=imagenet
    torchvision:resnet50@IMAGENET1K_V2

Checkpoints are safetensors files, or torch files read with `weights_only=True`. Loading never runs code of a
checkpoint.
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
