"""Datasets of pairs: arrays in a file, datasets of the user's code, classification sets of torchvision."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataset_files import DATASET, forbid_network, write_arrays, write_dataset, write_fashion

from autodistill.config import DataSpec
from autodistill.data import Data, download, from_worker, load, to_worker
from autodistill.data.pairs import TORCHVISION
from autodistill.errors import AutodistillError, ConfigError, DataError


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_network(monkeypatch)


def sizes(data: Data) -> list[int]:
    return [len(part.labels) for part in (data.train, data.validation, data.test)]


def everything(data: Data) -> dict[bytes, int]:
    """Return the label of each image."""
    return {
        image.permute(1, 2, 0).contiguous().numpy().tobytes(): int(label)
        for part in (data.train, data.validation, data.test)
        for image, label in zip(part.images, part.labels, strict=True)
    }


def refusal(name: str, **more: Any) -> AutodistillError:
    with pytest.raises(AutodistillError) as caught:
        load(DataSpec(name=name, **more))
    assert caught.value.exit_code == 2
    return caught.value


# Arrays


def test_arrays_keep_their_pixels_labels_and_splits(tmp_path: Path) -> None:
    path = write_arrays(tmp_path / "a.npz", classes=np.array(["x", "y", "z"]))
    data = load(DataSpec(name=f"arrays:{path}"))
    assert data.classes == ("x", "y", "z")
    assert sizes(data) == [48, 12, 30]
    with np.load(path) as file:
        images = np.concatenate([file["x_train"], file["x_test"]])
        labels = np.concatenate([file["y_train"], file["y_test"]])
    assert everything(data) == {image.tobytes(): int(label) for image, label in zip(images, labels, strict=True)}


RNG = np.random.default_rng(1)
BYTES = RNG.integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(30) % 3
FORMS: dict[str, tuple[dict[str, Any], np.ndarray[Any, Any]]] = {
    "channels first": ({"images": BYTES.transpose(0, 3, 1, 2), "labels": LABELS}, BYTES),
    "grey": ({"images": BYTES[..., 0], "labels": LABELS}, BYTES[..., :1]),
    "a channel": ({"data": BYTES[..., :1], "targets": LABELS}, BYTES[..., :1]),
    "numbers in [0, 1]": ({"images": (BYTES / 255).astype(np.float32), "labels": LABELS}, BYTES),
    "columns of labels": ({"train_images": BYTES, "train_labels": LABELS[:, None]}, BYTES),
    "opaque": ({"x": np.concatenate([BYTES, np.full((30, 8, 8, 1), 255, np.uint8)], axis=3), "y": LABELS}, BYTES),
    "numbers to 255": ({"images": BYTES.astype(np.float64), "labels": LABELS}, BYTES),
    "long integers": ({"images": BYTES.astype(np.int64), "labels": LABELS}, BYTES),
    "floats, channels first": ({"images": (BYTES / 255).transpose(0, 3, 1, 2), "labels": LABELS}, BYTES),
    "labels of floats": ({"images": BYTES, "labels": LABELS.astype(np.float32)}, BYTES),
    "one-hot": ({"images": BYTES, "labels": np.eye(3)[LABELS]}, BYTES),
    "more arrays": (
        {"images": BYTES, "labels": LABELS, "image_ids": LABELS + 7, "meta": np.array([{}], dtype=object)},
        BYTES,
    ),
    "arrays of other kinds": (
        {"x_train": BYTES, "y_train": LABELS, "x_mean": BYTES[0] / 2, "label_ids": LABELS, "x_train_raw": BYTES},
        BYTES,
    ),
    "names of classes": ({"images": BYTES, "labels": np.array(["a", "b", "c"])[LABELS]}, BYTES),
}


@pytest.mark.parametrize("form", FORMS)
def test_arrays_of_the_usual_forms_are_read(tmp_path: Path, form: str) -> None:
    arrays, expected = FORMS[form]
    np.savez(tmp_path / "a.npz", **arrays)
    data = load(DataSpec(name=f"arrays:{tmp_path / 'a.npz'}"))
    assert everything(data) == {it.tobytes(): int(label) for it, label in zip(expected, LABELS, strict=True)}
    assert data.classes == (("a", "b", "c") if form == "names of classes" else ("0", "1", "2"))


@pytest.mark.parametrize(
    ("arrays", "part"),
    [
        ({"pixels": BYTES}, "holds pixels"),
        ({"images": BYTES}, "holds images"),
        ({"images": BYTES, "label_ids": LABELS}, "holds images, label_ids"),
        ({"images": BYTES, "labels": LABELS[:-1]}, "29 labels for 30 train images"),
        ({"images": BYTES[..., :2], "labels": LABELS}, "an image of the shape (8, 8, 2)"),
        ({"images": BYTES / 127.5 - 1, "labels": LABELS}, "images: values of float64 from -1 to 1"),
        ({"images": BYTES.astype(np.float32) * 2, "labels": LABELS}, "images: values of float32 from 0 to 510"),
        ({"images": BYTES.astype(np.int64) * 257, "labels": LABELS}, "images: values of int64 from 0 to 65535"),
        ({"images": BYTES / np.nan, "labels": LABELS}, "images: values of float64 from nan to nan"),
        ({"images": BYTES[:0], "labels": LABELS[:0]}, "images: no image, its shape is (0, 8, 8, 3)"),
        ({"images": BYTES, "x": BYTES, "labels": LABELS}, "images and x could both be the images of train"),
        ({"images": BYTES, "labels": LABELS - 1}, "row 0 of train has the label -1"),
        ({"images": BYTES, "labels": LABELS / 2}, "row 1 of train has the label 0.5"),
        ({"images": BYTES, "labels": np.eye(3)[LABELS] * 0.9}, "train labels have the shape (30, 3); row 0 is"),
        ({"images": BYTES, "labels": np.ones((30, 3))}, "row 0 is [1. 1. 1.]"),
        ({"images": BYTES, "labels": LABELS.astype("M8[D]")}, "train labels of datetime64[D]"),
        (
            {"images": BYTES, "labels": np.array(["cat", "dgo"])[LABELS % 2], "classes": ["cat", "dog"]},
            "row 1 of train has the label 'dgo', which names no class (did you mean 'dog'? allowed: cat, dog)",
        ),
        ({"images": BYTES, "labels": LABELS * 0}, "one class"),
        ({"images": BYTES, "labels": LABELS * 0 + 1, "classes": ["a", "b"]}, "one class"),
        ({"images": BYTES, "labels": LABELS, "classes": ["a", "b", "a"]}, "two classes are called 'a'"),
        (
            {"images": BYTES, "labels": np.array(["a", "b"])[LABELS % 2], "classes": ["a", "b", "b"]},
            "two classes are called 'b'",
        ),
        ({"images": BYTES, "labels": LABELS, "classes": np.array(["a", "b"])}, "label 2, but 2 classes are named"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, arrays: dict[str, Any], part: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    assert part in refusal(f"arrays:{tmp_path / 'a.npz'}").message


NUMBERED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "from 1": ({"labels": LABELS + 1}, ("1", "2", "3")),
    "from 1 in two splits": ({"y_train": LABELS + 1, "y_test": np.array([3, 1, 2])}, ("1", "2", "3")),
    "from 1 with names": ({"labels": LABELS + 1, "classes": ["a", "b", "c"]}, ("a", "b", "c")),
    "tens": ({"labels": LABELS * 10 + 10}, ("10", "20", "30")),
    "bytes": ({"labels": np.array([b"ant", b"bee", b"cow"])[LABELS]}, ("ant", "bee", "cow")),
    "names beside labels": ({"labels": LABELS, "label_names": np.array(["a", "b", "c"])}, ("a", "b", "c")),
    "bytes of names": ({"labels": LABELS, "target_names": np.char.encode(["a", "\u00e9", "c"])}, ("a", "\u00e9", "c")),
    "texts of numbers": ({"labels": np.array(["1", "5", "10"])[LABELS]}, ("1", "5", "10")),
    "names in another order": (
        {"labels": np.array(["zoo", "ant", "bee"])[LABELS], "classes": [b"zoo", b"ant", b"bee"]},
        ("zoo", "ant", "bee"),
    ),
}


@pytest.mark.parametrize("form", NUMBERED)
def test_labels_of_arrays_are_numbered_in_their_order(tmp_path: Path, form: str) -> None:
    arrays, classes = NUMBERED[form]
    images = {"x_train": BYTES, "x_test": BYTES[:3] // 2} if "y_test" in arrays else {"images": BYTES}
    np.savez(tmp_path / "a.npz", **images, **arrays)
    data = load(DataSpec(name=f"arrays:{tmp_path / 'a.npz'}"))
    assert data.classes == classes
    found = everything(data)
    assert [found[it.tobytes()] for it in BYTES] == LABELS.tolist()


def test_arrays_that_are_not_used_are_listed_and_those_of_objects_are_refused_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=BYTES, labels=LABELS, image_ids=LABELS, extra=np.array([{}], dtype=object))
    reading = load(DataSpec(name=f"arrays:{tmp_path / 'a.npz'}")).reading
    assert reading is not None
    assert reading.left_out == ("arrays of the file that are not used: image_ids, extra",)
    np.savez(tmp_path / "o.npz", images=BYTES, labels=np.array([0, 1, 2] * 10, dtype=object))
    error = refusal(f"arrays:{tmp_path / 'o.npz'}")
    assert "o.npz: labels: cannot be read as .npz" in error.message
    assert "arrays of objects are never read" in error.hint


def test_files_that_are_no_arrays_are_refused_and_objects_are_not_unpickled(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_text("words")
    assert "cannot be read as .npz" in refusal(f"arrays:{tmp_path / 'a.npz'}").message
    assert refusal("arrays:nowhere.npz").message == "data.name = 'arrays:nowhere.npz': nowhere.npz: no such file"
    assert "--data arrays:" in refusal("arrays:nowhere.npz").hint
    assert f"{tmp_path} is a folder, not a file" in refusal(f"arrays:{tmp_path}").message
    assert refusal("arrays").message == "data.name = 'arrays': names no file"
    np.save(tmp_path / "one.npy", BYTES)
    error = refusal(f"arrays:{tmp_path / 'one.npy'}")
    assert "one.npy: a single array (.npy), not an .npz file" in error.message
    assert "numpy.savez(FILE, images=..., labels=...)" in error.hint
    np.savez(tmp_path / "o.npz", images=BYTES, labels=np.array([{}] * 30, dtype=object))
    assert "cannot be read as .npz" in refusal(f"arrays:{tmp_path / 'o.npz'}").message


# The user's code


def test_a_dataset_of_the_user_is_read_once_and_found_again(tmp_path: Path) -> None:
    spec = DataSpec(name=f"python:{write_dataset(tmp_path / 'data.py')}:make?count=50")
    data, done = load(spec), []
    assert data.classes == ("cat", "dog")
    assert sizes(data) == [40, 10, 10]  # the validation split alone is the test split of such a dataset
    expected = {}
    for seed, label in [*((row, row % 2) for row in range(50)), *((row, row % 2) for row in range(900, 910))]:
        rng = np.random.default_rng(seed)
        expected[rng.integers(0, 256, (12, 12, 3), dtype=np.uint8).tobytes()] = label
    assert everything(data) == expected
    again = load(spec, progress=lambda *count: done.append(count))
    assert (again.fingerprint, done) == (data.fingerprint, [])
    other = load(spec.model_copy(update={"name": spec.name.replace("50", "60")}))
    assert sizes(other) == [48, 12, 10]
    write_dataset(tmp_path / "data.py", DATASET.replace("rows[row])", "rows[row] + 1)"))
    assert load(spec).fingerprint != data.fingerprint


def test_a_worker_gets_the_images_without_the_user_s_code(tmp_path: Path) -> None:
    spec = DataSpec(name=f"python:{write_dataset(tmp_path / 'data.py')}:make")
    given = to_worker(load(spec))
    (tmp_path / "data.py").unlink()
    assert from_worker(given, spec).classes == ("cat", "dog")


def one(body: str, *, more: str = "") -> str:
    return f"""
import numpy as np, torch
from PIL import Image

class Rows:
    def __len__(self):
        return 40

    def __getitem__(self, i):
        rng = np.random.default_rng(i)
        {body}

def make():
    return {more or "Rows()"}
"""


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        ("return torch.from_numpy(rng.random((3, 9, 9))), torch.tensor(i % 2)", (3, 9, 9)),
        ("return torch.from_numpy(rng.integers(0, 256, (1, 9, 9), dtype=np.uint8)), np.int64(i % 2)", (1, 9, 9)),
        ("return rng.integers(0, 256, (9, 9), dtype=np.uint8), i % 2", (1, 9, 9)),
        ("return rng.random((60, 90, 3)), i % 2", (3, 48, 48)),
        ("return [Image.fromarray(rng.integers(0, 256, (40 + i, 50, 3), dtype=np.uint8)), i % 2]", (3, 32, 32)),
    ],
)
def test_images_of_any_usual_type_are_read(tmp_path: Path, body: str, shape: tuple[int, int, int]) -> None:
    data = load(DataSpec(name=f"python:{write_dataset(tmp_path / 'data.py', one(body))}:make"))
    assert (data.image_shape, sizes(data)) == (shape, [26, 6, 8])


@pytest.mark.parametrize(
    ("code", "part"),
    [
        (one("return torch.rand(3, 9, 9), i % 2"), "two reads of row 0 of train differ"),
        (one("return torch.from_numpy(rng.normal(size=(3, 9, 9))), i % 2"), "before their normalisation"),
        (one("return rng.integers(0, 255, (9, 9, 3)), i % 2"), "return image.astype(np.uint8)"),
        (one("return rng.uniform(0, 255, (9, 9, 3)), i % 2"), "return image.astype(np.uint8)"),
        (one("return rng.integers(0, 2, (9, 9, 3)), i % 2"), "return image.astype(np.uint8)"),
        (one("return rng.integers(0, 999, (9, 9, 3)), i % 2"), "before their normalisation"),
        (one("return np.zeros((0, 9, 3), np.uint8), i % 2"), "an image of the shape (0, 9, 3)"),
        (one("return np.zeros((9, 9, 2), np.uint8), i % 2"), "an image of the shape (9, 9, 2)"),
        (one("return 'a.png', i % 2"), "the image is a str"),
        (one("return np.zeros((9, 9), np.uint8), [0, 1]"), "has the label [0, 1]"),
        (one("return np.zeros((9, 9), np.uint8)"), "row 0 of train is a ndarray"),
        (one("return np.zeros((9, 9), np.uint8), i / 0"), "cannot be read: ZeroDivisionError"),
        (one("return None", more="(Rows(), Rows())"), "returns a tuple for train"),
        (one("return None", more="{'learn': Rows()}"), "returns a dict with 'learn'"),
        (one("return None", more="{'test': Rows()}"), "returns a dict without 'train'"),
        (one("return None", more="[]"), "the train split is empty"),
        (one("return None", more="iter([])"), "returns a list_iterator for train"),
        (one("return None", more="1 / 0"), "make failed: ZeroDivisionError"),
        ("import nonexistent", "cannot be imported: ModuleNotFoundError"),
        ("made = 1", "has no function 'make'"),
    ],
)
def test_code_that_gives_something_else_is_refused(tmp_path: Path, code: str, part: str) -> None:
    error = refusal(f"python:{write_dataset(tmp_path / 'data.py', code)}:make")
    assert part in f"{error.message} {error.hint}"
    assert "data.name" in error.message


NAMED = (
    one("return rng.integers(0, 256, (9, 9), dtype=np.uint8), i % 2", more="parts()")
    + """
class Named(Rows):
    def __init__(self, classes):
        self.classes = classes

def parts():
    return {"train": Named(TRAIN), "test": Named(TEST)}
"""
)


def named(folder: Path, *, train: str, test: str) -> str:
    code = NAMED.replace("TRAIN", train).replace("TEST", test)
    return f"python:{write_dataset(folder / 'data.py', code)}:make"


@pytest.mark.parametrize(
    ("train", "test", "part"),
    [
        ("['cat', 'dog']", "['dog', 'cat']", "label 0 is 'cat' in train and 'dog' in test"),
        ("['cat', 'dog', 'emu']", "['cat', 'dog']", "train has 3 and test has 2"),
        ("['cat', 'cat']", "['cat', 'cat']", "two classes are called 'cat'"),
    ],
)
def test_class_names_that_differ_or_repeat_are_refused(tmp_path: Path, train: str, test: str, part: str) -> None:
    assert part in refusal(named(tmp_path, train=train, test=test)).message


@pytest.mark.parametrize(
    "classes", ["np.array(['cat', 'dog'])", "np.array([b'cat', b'dog'])", "('cat', 'dog')", "[['cat', 'puss'], 'dog']"]
)
@pytest.mark.parametrize("test", ["['cat', 'dog']", "None"])
def test_class_names_may_be_arrays_and_one_split_may_state_them(tmp_path: Path, classes: str, test: str) -> None:
    assert load(DataSpec(name=named(tmp_path, train=classes, test=test))).classes == ("cat", "dog")


ABSENT: dict[str, dict[str, Any]] = {
    "without names": {"labels": LABELS % 2 * 2},
    "with names": {"labels": LABELS % 2 * 2 + 1, "classes": ["N/A", "0", "1", "2", "4"]},
    "text labels": {"labels": np.array(["0", "2"])[LABELS % 2], "classes": ["N/A", "0", "1", "2"]},
}


@pytest.mark.parametrize(
    ("form", "left_out"),
    [
        ("without names", "1 class without images: 1"),
        ("with names", "3 classes without images: N/A, 1, 4"),
        ("text labels", "2 classes without images: N/A, 1"),
    ],
)
def test_classes_without_images_are_left_out_and_named(tmp_path: Path, form: str, left_out: str) -> None:
    np.savez(tmp_path / "a.npz", images=BYTES, **ABSENT[form])
    for _ in range(2):  # read, then found
        data = load(DataSpec(name=f"arrays:{tmp_path / 'a.npz'}"))
        assert data.classes == ("0", "2")
        found = everything(data)
        assert [found[it.tobytes()] for it in BYTES] == (LABELS % 2).tolist()
        assert data.reading is not None
        assert data.reading.left_out == (left_out,)


def test_labels_may_be_large_numbers(tmp_path: Path) -> None:
    body = "return rng.integers(0, 256, (9, 9), dtype=np.uint8), 10**12 * (i % 2)"
    data = load(DataSpec(name=f"python:{write_dataset(tmp_path / 'data.py', one(body))}:make"))
    assert data.classes == ("0", "1000000000000")
    assert data.reading is not None
    assert data.reading.left_out == ("999,999,999,999 classes without images: 1, 2, 3, ...",)


def test_a_class_of_some_splits_only_is_not_left_out(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x_train=BYTES, y_train=LABELS, x_test=BYTES[:9], y_test=LABELS[:9] % 2)
    assert "class '2'" in refusal(f"arrays:{tmp_path / 'a.npz'}").message


def test_the_description_counts_every_row(tmp_path: Path) -> None:
    body = "return Image.fromarray(rng.integers(0, 256, (40 + i % 39, 40, 3), dtype=np.uint8)), i % 2"
    reading = load(DataSpec(name=f"python:{write_dataset(tmp_path / 'data.py', one(body))}:make")).reading
    assert reading is not None
    assert (reading.images, reading.distinct, reading.kinds) == (40, 39, {"colour": 40})
    assert (reading.smallest, reading.largest) == ((40, 40), (40, 78))


def test_unknown_arguments_and_missing_names_are_refused(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "data.py")
    assert "unexpected keyword argument 'cuont'" in refusal(f"python:{path}:make?cuont=3").message
    assert "names no function" in refusal("python:data").message
    assert "no such file" in refusal(f"python:{tmp_path / 'other.py'}:make").message


def test_the_dataset_of_the_docs_is_read(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "images.md").read_text(encoding="utf-8")
    code = text.partition("```python\n")[2].partition("```")[0]
    data = load(DataSpec(name=f"python:{write_dataset(tmp_path / 'data.py', code)}:stripes?count=40"))
    assert (data.classes, sizes(data)) == (("across", "down"), [32, 8, 10])
    images = data.train.images.float()
    down = (images[..., ::4].mean((1, 2, 3)) - images.mean((1, 2, 3))) > 30
    assert torch.equal(down, data.train.labels == 1)


# torchvision


def test_a_set_of_torchvision_is_read_where_it_lies(tmp_path: Path) -> None:
    write_fashion(tmp_path / "KMNIST" / "raw", zipped=False)
    data = load(DataSpec(name="torchvision:KMNIST", root=str(tmp_path)))
    assert data.image_shape == (1, 28, 28)
    assert (len(data.classes), data.classes[0]) == (10, "o")
    assert sizes(data) == [48, 12, 30]


def test_the_classes_of_imagenet_have_the_names_that_torchvision_s_networks_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cranes:
        """Two classes with the same first name, as in torchvision's dataset."""

        classes = (("crane",),) * 1000

        def __init__(self, root: Path, split: str) -> None:
            self.seed = len(split)

        def __len__(self) -> int:
            return 20

        def __getitem__(self, row: int) -> tuple[np.ndarray[Any, Any], int]:
            rng = np.random.default_rng([self.seed, row])
            return rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), (134, 517)[row % 2]

    monkeypatch.setattr("torchvision.datasets.ImageNet", Cranes)
    data = load(DataSpec(name="torchvision:ImageNet", root=str(tmp_path)))
    assert data.classes == ("crane bird", "crane")
    assert sizes(data) == [16, 4, 20]


def test_unknown_and_missing_sets_are_named_and_nothing_is_downloaded(tmp_path: Path) -> None:
    assert "did you mean 'KMNIST'" in refusal("torchvision:KMNISTT").message
    error = refusal("torchvision:Flowers102", root=str(tmp_path))
    assert f"not found below {tmp_path}" in error.message
    assert "--download" in error.hint
    assert not list(tmp_path.iterdir())


def test_every_listed_set_exists_and_takes_its_arguments() -> None:
    from torchvision import datasets

    for name, splits in TORCHVISION.items():
        parameters = inspect.signature(getattr(datasets, name)).parameters
        assert "root" in parameters
        flexible = any(it.kind is inspect.Parameter.VAR_KEYWORD for it in parameters.values())
        assert all(flexible or key in parameters for arguments in splits.values() for key in arguments), name


@pytest.mark.parametrize("name", TORCHVISION)
def test_no_listed_set_is_downloaded_unless_asked(tmp_path: Path, name: str) -> None:
    more = "?split=letters" if name == "EMNIST" else ""
    assert f"not found below {tmp_path}" in refusal(f"torchvision:{name}{more}", root=str(tmp_path)).message


def test_sets_whose_download_is_not_in_their_own_signature_are_downloaded_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    for name in ("SEMEION", "EMNIST", "QMNIST"):
        monkeypatch.setattr(f"torchvision.datasets.{name}.download", lambda self: asked.append(type(self).__name__))
    for name in ("SEMEION", "EMNIST?split=letters", "QMNIST"):
        with pytest.raises(DataError, match="the download failed"):
            download(DataSpec(name=f"torchvision:{name}", root=str(tmp_path)))
    assert asked == ["SEMEION", "EMNIST", "QMNIST"]


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("MNIST?train=false", "train"),
        ("MNIST?download=true", "download"),
        ("Flowers102?split=test", "split"),
        ("KMNIST?root=elsewhere", "root"),
        ("KMNIST?transform=1", "transform"),
    ],
)
def test_options_that_are_not_the_users_are_refused(tmp_path: Path, name: str, option: str) -> None:
    error = refusal(f"torchvision:{name}", root=str(tmp_path))
    assert f"the option '{option}' cannot be set" in error.message
    assert "leave it out" in error.hint
    assert not list(tmp_path.iterdir())


def test_a_download_is_torchvision_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fetched(self: Any) -> None:
        asked.append(type(self).__name__)
        write_fashion(Path(self.raw_folder), zipped=False)

    monkeypatch.setattr("torchvision.datasets.MNIST.download", fetched)
    for name in ("torchvision:KMNIST", "fashion-mnist"):
        spec = DataSpec(name=name, root=str(tmp_path))
        download(spec)
        assert len(load(spec).test.labels) == 30
    assert set(asked) == {"KMNIST", "FashionMNIST"}


def test_a_failed_and_an_impossible_download_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(self: Any) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr("torchvision.datasets.MNIST.download", away)
    with pytest.raises(DataError, match="the download failed \\(Error downloading train-images"):
        download(DataSpec(name="torchvision:MNIST", root=str(tmp_path)))
    with pytest.raises(DataError, match="torchvision cannot download this dataset"):
        download(DataSpec(name="torchvision:ImageNet", root=str(tmp_path)))
    with pytest.raises(ConfigError, match="--download: 'folder:x' cannot be downloaded"):
        download(DataSpec(name="folder:x"))
