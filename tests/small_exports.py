"""A study that was never searched but can be exported, and its student by hand."""

import importlib.util

import pytest
import torch
from safetensors import safe_open

from autodistill import data as datasets
from autodistill.executors import CheckTask, SerialExecutor, TrainTask, TrainTeacherTask
from autodistill.models import build
from autodistill.records import (
    FinalistRecord,
    PlanRecord,
    RunSpec,
    StudyRecord,
    TrialParams,
    to_json,
)
from autodistill.stats.verdict import recommend
from autodistill.store import write_text

STUDENT = "resnet8:0.25"
TEACHER_NAME = "resnet8"
TEACHER = TrialParams(teacher=TEACHER_NAME, method="ts", method_params={"tau": 4.0}, tau_student=4.0, soft_weight=0.5)
SMALL = (
    "data.train=120",
    "data.validation=60",
    "data.test=90",
    "data.pool=2",
    "training.epochs=3",
    "ladder.epochs=20",
    "training.evaluate_every=3",
    f'ladder.architectures=["{TEACHER_NAME}"]',
)
HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript"))
EXTRA = pytest.mark.skipif(not HAS_ONNX, reason="the extra [onnx] is not installed")
WRITTEN = [*("safetensors", "pt2"), pytest.param("onnx", marks=EXTRA)]


def write_study(spec):
    from autodistill.config import dump

    executor = SerialExecutor(spec.setup, data=spec.data)
    executor.run([TrainTeacherTask(uri=f"ladder:{TEACHER_NAME}")], lambda _: None)
    (teacher,) = executor.run([CheckTask(name=TEACHER_NAME)], lambda _: None)
    finalists = [finalist(executor, "baselines/no-teacher", TrialParams()), finalist(executor, "confirm/0000", TEACHER)]
    space, data = spec.space, datasets.record(spec.data, spec=spec.space.data, views=spec.views)
    parts = {"no_teacher": 1.0, "plain_kd": 1.0, "priors": 1.0, "confirm": 4.0, "search": 1.0}
    record = StudyRecord(
        name=spec.folder.path.name,
        state="complete",
        command=spec.options.command,
        student=spec.student,
        data=data,
        space=space.model_dump(mode="json", exclude_none=True),
        plan=PlanRecord(requested="8", epochs_full=3, epochs_rung=1, total_epochs=24, wave=1, **parts),
        spent_epochs=12,
        teachers=(teacher,),
        finalists=tuple(finalists),
        timing={"phases_s": {"confirm": 65.0}},
    )
    # Trained this little, no teacher helps: the study is told to recommend the one that it has.
    verdict = recommend(record).model_copy(update={"verdict": "only_one", "teacher": TEACHER_NAME, "params": TEACHER})
    write_text(spec.folder.record, to_json(record.model_copy(update={"recommendation": verdict})))
    write_text(spec.folder.space, dump(space))


def finalist(executor, name, params):
    tasks = [
        TrainTask(
            spec=RunSpec(run=f"{name}-{seed}", params=params, seed=seed, epochs=3, evaluate_on="validation+test"),
            key=f"{name.replace('/', '-')}-{seed}",
        )
        for seed in (1000, 1001)
    ]
    runs = tuple(found.result for found in executor.run(tasks, lambda _: None))
    return FinalistRecord(teacher=params.teacher, params=params, runs=runs)


def raw_images(study):
    """The test images as they are before the study averages 2 x 2 pixels."""
    spec, _ = study
    return datasets.load(spec.space.data.model_copy(update={"pool": 1})).test.images


def eager(study, folder, record):
    """Logits by hand, in float64, from the kept weights: averaging, scaling, normalisation, network."""
    spec, _ = study
    run = max(record.finalists[1].runs, key=lambda it: it.val_top1)
    with safe_open(folder.weights(run.key), framework="pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    module = build(STUDENT, num_classes=10, in_channels=1, image_size=4, seed=3).eval()
    module.load_state_dict(state)
    blocks = raw_images(study).double().unfold(2, 2, 2).unfold(3, 2, 2)
    pooled = (blocks.mean((-1, -2)) + 0.5).floor()
    (mean,), (std,) = spec.data.mean, spec.data.std
    with torch.inference_mode():
        return module.double()((pooled / 255 - mean) / std)
