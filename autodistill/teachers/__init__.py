"""Teachers by URI: loading, running, checks and profiles.

    file:runs/wrn.pth?norm=imagenet
    python:nets.py:resnet20?weights=resnet20.th&norm=imagenet
    torchvision:resnet50@IMAGENET1K_V2
    timm:resnet18.a1_in1k
    onnx:runs/net.onnx?norm=imagenet
    logits:teacher.npy
    ensemble:NAME+NAME
    assistant:NETWORK?teacher=NAME

Loading never runs code of a checkpoint. `python:` runs the file that the URI names.
"""

from autodistill.models.checkpoints import save
from autodistill.models.preprocessing import Normalisation
from autodistill.models.uri import name_of
from autodistill.teachers.checks import check, check_logits, hottest_of, with_equals
from autodistill.teachers.sources import SOURCES, candidates, check_scheme, is_ensemble, load, members_of
from autodistill.teachers.teacher import Teacher, computed_as, ensemble_fingerprint, logits_of

__all__ = [
    "SOURCES",
    "Normalisation",
    "Teacher",
    "candidates",
    "check",
    "check_logits",
    "check_scheme",
    "computed_as",
    "ensemble_fingerprint",
    "hottest_of",
    "is_ensemble",
    "load",
    "logits_of",
    "members_of",
    "name_of",
    "save",
    "with_equals",
]
