"""What card and metadata say about the preprocessing is what was done: followed by hand, from image files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import autodistill as ad
from autodistill import data as datasets
from autodistill.config import load
from autodistill.study import KNOWN

pytestmark = pytest.mark.slow


def photographs() -> None:
    """Write photographs of mixed sizes, one of them rotated by EXIF and one transparent."""
    draw = np.random.default_rng(0)
    for part, count in (("train", 30), ("validation", 15), ("test", 15)):
        for label, name in enumerate(("dark", "light")):
            Path("photos", part, name).mkdir(parents=True)
            for number in range(count):
                height, width = draw.integers(40, 70, 2)
                pixels = draw.integers(100 * label, 100 * label + 120, (height, width, 3), dtype=np.uint8)
                exif = Image.Exif()
                exif[0x0112] = 6 if number == 0 else 1
                Image.fromarray(pixels).save(f"photos/{part}/{name}/{number}.png", exif=exif)
    pixels = draw.integers(0, 256, (50, 60, 4), dtype=np.uint8)
    Image.fromarray(pixels).save("photos/test/dark/transparent.png")


def prepared(path: Path, how: dict) -> np.ndarray:
    """Do by hand what the metadata say, in the order of their keys."""
    assert list(how) == ["orientation", "transparent", "crop", "resize", "interpolation", "then_centre_crop"]
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    side, stored, cut = min(image.size), how["resize"], how["then_centre_crop"]
    left, top = (image.width - side) / 2, (image.height - side) / 2
    square = image.resize((stored, stored), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    margin = (stored - cut) // 2
    return np.asarray(square)[margin : margin + cut, margin : margin + cut].transpose(2, 0, 1)


def test_the_metadata_lead_from_an_image_file_to_the_logits():
    photographs()
    settings = {
        "training": {"epochs": 2, "rung_epochs": 1, "batch_size": 20, "evaluate_every": 1},
        "ladder": {"epochs": 4, "architectures": ["resnet8:0.25"]},
        "confirm": {"seeds": 2},
        "search": {"methods": {"ts": {"tau": 4.0}}},
        "prior": {"method": "ts", "params": {"tau": 4.0}},
    }
    study = ad.search(
        "resnet8:0.25", data="folder:photos", budget=11, settings=settings, executor="serial", progress=False
    )
    exported = study.export("out", formats=["pt2", "safetensors"])
    extra = {"autodistill.json": ""}
    program = torch.export.load("out/student.pt2", extra_files=extra)
    metadata = json.loads(extra["autodistill.json"])
    images = metadata["input"]
    files = sorted(Path("photos/test").rglob("*.png"))
    batch = torch.from_numpy(np.stack([prepared(path, images["before"]) for path in files]))
    test = datasets.load(load(str(study.folder / "space.toml"), known=KNOWN).data).test
    assert sorted(row.numpy().tobytes() for row in test.images.contiguous()) == sorted(
        row.numpy().tobytes() for row in batch
    )
    assert images["order"] == "RGB"
    assert images["shape"][1:] == list(batch.shape[1:])
    with torch.inference_mode():
        logits = program.module()(batch)
    labels = torch.tensor([metadata["classes"].index(path.parent.name) for path in files])
    assert float((logits.argmax(1) == labels).double().mean()) == pytest.approx(exported.test_top1)
    card = Path("out/README.md").read_text()
    side, stored = images["before"]["then_centre_crop"], images["before"]["resize"]
    for line in (
        "| Channels | red, green, blue (RGB), in this order |",
        "| Before the graph | turn the image upright, by EXIF; transparent parts are laid over white |",
        f"| Crop and resize | centre square, to {stored} x {stored} pixels, bilinear, antialiased (Pillow's BILINEAR); "
        f"then the centre {side} x {side} pixels |",
        "| Scale | levels 0 to 255 by 1/255 (in the graph) |",
        f"| Mean | {', '.join(f'{value:.6g}' for value in images['mean'])} (in the graph) |",
        f"| Standard deviation | {', '.join(f'{value:.6g}' for value in images['std'])} (in the graph) |",
    ):
        assert line in card
