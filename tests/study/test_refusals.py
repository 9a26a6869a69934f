"""Options that cannot hold are refused before any work, with the reason."""

import os
import re
import resource
import sys
from pathlib import Path
from typing import Any

import pytest
from dataset_files import write_images
from fake_trainer import all_trained
from small_studies import ISATS_FIRST, NAME, TINY, Killed, core, everything, fake, kill_after, options, resolve

from autodistill import __main__ as entry
from autodistill.config import load, shipped
from autodistill.data import DATASETS
from autodistill.errors import AutodistillError, ConfigError, InUseError, StoreError
from autodistill.records import StudentBudget
from autodistill.store import cache_root, locked
from autodistill.study import KNOWN
from autodistill.study.fitting import check_methods

pytestmark = pytest.mark.slow

REFUSED = {
    "student": ({"student": "mobilnetv2"}, r"unknown network 'mobilnetv2' \(did you mean 'mobilenetv2'"),
    "data": ({"data": "digitz"}, r"--data: unknown dataset 'digitz' \(did you mean 'digits'"),
    "method": (
        {"more": ["search.methods.isatz.tau=4"]},
        r"search\.methods\.isatz: unknown method 'isatz' \(did you mean 'isats'",
    ),
    "budget": (
        {"budget": "8.5"},
        r"--budget 8\.5: 8\.333 full trainings are too few for 2 teachers: the smallest is 9 ",
    ),
    "budget with plain KD": (
        {"budget": "9.5", "more": [ISATS_FIRST]},
        r"--budget 9\.5: 9\.333 full trainings are too few for 2 teachers: the smallest is 10 ",
    ),
    "unit": ({"budget": "10 parsecs"}, r"--budget 10 parsecs: must be a number"),
    "batch": (
        {"more": ["training.batch_size=101"]},
        r"training\.batch_size: 101 is more than the 100 training images",
    ),
    "rungs": (
        {"more": ["training.rung_epochs=3"]},
        r"training: epochs = 3 leaves no room for a rung of 3: at least 4 epochs, or at most 2 rung_epochs",
    ),
    "one epoch": (
        {"more": ["training.epochs=1"]},
        r"training: epochs = 1 leaves no room for a rung of 1: at least 2 epochs(?!,)",
    ),
    "cache": ({"cache_size": "3999"}, r"--cache-size 3999: one view of 2 teachers takes 4000 bytes"),
    "trials": ({"max_trials": 1}, r"--max-trials 1"),
    "study": ({"study": "../elsewhere"}, r"--study \.\./elsewhere: must be a plain name"),
    "above": ({"study": ".."}, r"--study \.\.: must be a plain name"),
    "stride": ({"more": ["student.stem_stride=3"]}, r"student\.stem_stride"),
    "teacher": ({"teachers": ("file:gone.safetensors?arch=resnet8",)}, r"no such file: gone\.safetensors"),
    "nobody": ({"workers": 0}, r"--workers 0: must be a number above 0, or auto"),
    "count": ({"workers": "many"}, r"--workers many: must be a number above 0, or auto"),
    "open": ({"insecure": True}, r"--insecure: has an effect with --ray only"),
    "gpus": ({"per_gpu": 2}, r"--per-gpu 2: has an effect with --ray only"),
    "storage": ({"storage": "mysql://me:pass@host/kd"}, r"--storage \*\*\*: is no address of a database"),
    "away": ({"storage": "postgresql://me:pass@/kd?host=/nowhere"}, r"--storage postgresql://me:\*\*\*@/kd\?\*\*\*"),
    "sizes": ({"more": ["data.train=5000"]}, r"data\.train"),
}


def kept_files() -> set[Path]:
    """Return all files but measurements and descriptions of networks, which any command may keep."""
    return {path for path in everything(Path(), cache_root()) if not {"measured", "described"} & {*path.parts}}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_before_any_work(case, monkeypatch):
    monkeypatch.setattr("autodistill.searching.database.START_S", 0.2)
    flags, message = REFUSED[case]
    flags = dict(flags)
    before = kept_files()
    with pytest.raises(AutodistillError, match=message) as found:
        resolve(options(*flags.pop("more", ()), **flags))
    assert "pass@" not in str(found.value)
    assert found.value.exit_code == 2
    assert kept_files() == before


@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        (("--set", "training.batch_size=101"), "hint: --set training.batch_size=64"),
        (("--set", "training.epochs=1", "--set", "training.rung_epochs=1"), "at least 2 epochs"),
        (("--cache-size", "3999"), "hint: --cache-size 4000 holds one, 12000 all 3"),
    ],
)
def test_a_refusal_names_a_number_that_fits(monkeypatch, capsys, flags, hint):
    sizes = [it for override in TINY for it in ("--set", override)]
    monkeypatch.setattr(sys, "argv", ["autodistill", "search", "--student", "resnet8:0.25", "--space", "smoke", *sizes])
    sys.argv.extend(flags)
    with pytest.raises(SystemExit) as ended:
        entry.run()
    assert ended.value.code == 2
    assert hint in capsys.readouterr().err
    assert not Path("runs").exists()


METHODS = {
    "both": (
        ["search.methods.isats.target_ratio={low = 0.8, high = 4.0}", "search.methods.isats.tau_target=4"],
        r"search\.methods\.isats: target_ratio is 0\.8 and tau_target is 4\.0: give one",
    ),
    "corner": (
        [
            "search.methods.isats.target_ratio={low = 0.8, high = 4.0}",
            "search.methods.isats.tau_min={low = 0.5, high = 9.0}",
            "search.methods.isats.tau_max=8",
            'prior.method="isats"',
            "prior.params={target_ratio = 2.0, tau_min = 0.5}",
        ],
        r"search\.methods\.isats: tau_min is 9\.0 and tau_max is 8\.0",
    ),
    "anchor": (
        [
            "search.methods.isats.target_ratio=[1.6, 2.0]",
            'search.methods.isats.anchor="othermax"',
            'prior.method="isats"',
            "prior.params.target_ratio=2.0",
        ],
        r"search\.methods\.isats: unknown anchor 'othermax'; allowed: raw, mean, other_max, target",
    ),
    "missing": (
        ["search.methods.ts.tau_student=4", 'prior.method="ts"', "prior.params={}"],
        r"search\.methods\.ts: .*'?tau'?",
    ),
    "word": (
        ['search.methods.ts.tau="four"', 'prior.method="ts"', 'prior.params.tau="four"'],
        r"search\.methods\.ts: ",
    ),
    "student's word": (
        ["search.methods.ts.tau=4", 'search.methods.ts.tau_student="hot"', 'prior.method="ts"', "prior.params={}"],
        r"search\.methods\.ts\.tau_student: must be a number above 0",
    ),
    "two at once": (
        [
            "search.methods.isats.target_ratio=[1.6, 2.0]",
            'search.methods.isats.tau_wrong="literel"',
            'search.methods.ats={tau_target = 2.0, tau_other = 4.0, anchor = "none"}',
            'prior.method="isats"',
            "prior.params.target_ratio=2.0",
        ],
        r"search\.methods\.isats: tau_wrong is 'literel'(.|\n)*search\.methods\.ats: unknown anchor 'none'",
    ),
}


@pytest.mark.parametrize("case", METHODS)
def test_parameters_that_a_method_refuses_are_found_before_any_work(case):
    overrides, message = METHODS[case]
    with pytest.raises(ConfigError, match=message):
        resolve(options(*overrides))
    assert not kept_files()


def test_the_shipped_spaces_pass_the_trial_of_their_methods():
    for name in shipped():
        check_methods(load(name, known=KNOWN), 10)


def two_classes(tmp_path: Path, *more: str) -> Any:
    write_images(tmp_path / "cats or dogs", ["cat", "dog"], count=40)
    sizes = ("data.train=40", "data.validation=20", "data.test=20", "data.crop=0", "training.batch_size=20")
    return options(*sizes, *more, data=f"folder:{tmp_path / 'cats or dogs'}")


def test_two_classes_leave_isats_out_and_say_so(tmp_path):
    spec = resolve(two_classes(tmp_path))
    assert set(spec.space.search.methods) == {"ts", "ats"}
    assert (spec.space.prior.method, spec.space.prior.params) == ("ts", {"tau": 4.0})
    (note,) = spec.notes
    assert "isats left out (needs at least 3 classes; folder:" in note
    events = []
    fake(two_classes(tmp_path), events.append)
    assert (events[0].text, events[0].warning) == (note, True)
    own = resolve(
        two_classes(
            tmp_path, 'prior.method="ats"', "prior.params={tau_target = 2.0, tau_other = 3.0, tau_student = 4.0}"
        )
    )
    assert own.space.prior.method == "ats"


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["search.methods.isats.target_ratio=2.0"], r"search\.methods\.isats"),
        (["search.methods={isats={target_ratio=2.0}}"], r"search\.methods\.isats"),
        (['prior.method="isats"', "prior.params={target_ratio = 2.0, tau_student = 4.0}"], "prior"),
    ],
)
def test_naming_isats_with_two_classes_is_an_error(tmp_path, overrides, key):
    with pytest.raises(ConfigError, match=rf"{key}: isats needs at least 3 classes; .* has 2"):
        resolve(two_classes(tmp_path, *overrides))


RENAMED = {
    "search.rules.ts.tau=4": r"search\.rules: is called search\.methods now",
    'prior.rule="ts"': r"prior\.rule: is called prior\.method now",
    "training.short_epochs=1": r"training\.short_epochs: is called training\.rung_epochs now",
    "search.second_looks=true": r"search\.second_looks: is called search\.reruns now",
}


@pytest.mark.parametrize("override", RENAMED)
def test_an_old_key_is_an_error_that_names_the_new_one(override):
    with pytest.raises(ConfigError, match=RENAMED[override]) as found:
        resolve(options(override))
    assert found.value.exit_code == 2


def test_all_old_keys_of_a_file_are_named_at_once():
    Path("old.toml").write_text(
        "[training]\nshort_epochs = 1\n[search]\nsecond_looks = true\n[search.rules.ts]\ntau = 4.0\n"
        "[prior]\nrule = 'ts'\n"
    )
    with pytest.raises(ConfigError) as found:
        load("old.toml", known=KNOWN)
    for line in RENAMED.values():
        assert re.search(rf"old\.toml: {line}", found.value.message)


@pytest.fixture
def begun() -> None:
    """A study that was killed before its first run."""
    with pytest.raises(Killed):
        fake(options(), kill_after(1))


CHANGES = {
    "lr": (("training.lr=0.07",), {}, r"space\.training\.lr: there 0\.05, asked for 0\.07"),
    "student": (
        (),
        {"student": "resnet8:0.3", "study": NAME},
        r"student: there 'resnet8:0\.25', asked for 'resnet8:0\.3'",
    ),
    "seed": ((), {"seed": 1}, r"space\.search\.seed: there 0, asked for 1"),
    "data": (("data.train=90",), {}, r"  data: there '[0-9a-f]+', asked for '[0-9a-f]+'"),
    "epochs": (("training.epochs=4",), {}, r"space\.training\.epochs: there 3, asked for 4"),
    "method": (
        ("search.methods={ts={tau=4.0}}", 'prior={method="ts",params={tau=4.0}}'),
        {},
        r"search\.methods\.isats",
    ),
    "teacher": (
        ('ladder.architectures=["resnet8:0.25"]',),
        {},
        r"  teachers\.resnet8:0\.5: there 'ladder:resnet8:0\.5', asked",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_changed_command_is_refused_with_the_differences(begun, case):
    more, flags, difference = CHANGES[case]
    before = kept_files()
    content = Path("runs", NAME, "study.json").read_bytes()
    with pytest.raises(StoreError, match=rf"^runs/{NAME}: holds another study:\n(.|\n)*{difference}") as found:
        fake(options(*more, **flags))
    assert found.value.exit_code == 2
    assert "--study" in found.value.hint
    assert kept_files() == before
    assert Path("runs", NAME, "study.json").read_bytes() == content


def test_many_differences_are_counted(begun):
    many = [f"training.{key}" for key in ("lr=0.07", "batch_size=50", "momentum=0.8", "weight_decay=0.1", "epochs=4")]
    many += ["data.crop=0", "data.flip=true", "data.view_seed=3", "search.seed=4", "search.eta=2", "confirm.seeds=3"]
    many += ["confirm.threshold=0.1", "student.stem_stride=2", "prior.soft_weight=0.6"]
    with pytest.raises(StoreError, match=r"holds another study") as found:
        fake(options(*many, study=NAME, budget="30"))
    lines = found.value.message.splitlines()
    assert len(lines) == 1 + 12 + 1
    assert re.fullmatch(r"  and \d+ more", lines[-1])


@pytest.mark.parametrize(
    ("more", "flags"), [((), {"workers": 4}), (("search.wave=1",), {}), ((), {"budget": "12"}), ((), {"max_trials": 5})]
)
def test_what_changes_no_run_is_no_other_study(begun, more, flags):
    assert fake(options(*more, **flags)).state == "complete"


def test_images_that_were_moved_are_the_same_study(tmp_path):
    first, second = tmp_path / "one", tmp_path / "two"
    for place in (first, second):
        write_images(place, ["cat", "dog", "cow"], count=40)
    sizes = ("data.train=40", "data.validation=20", "data.test=20", "data.crop=0", "training.batch_size=20")
    asked, moved = (options(*sizes, data=f"folder:{place}", study="mine") for place in (first, second))
    record = fake(asked)
    again = fake(moved)
    assert again == record
    write_images(second, ["cat", "dog", "cow"], count=41)
    other = options("data.train=41", *sizes[1:], data=f"folder:{second}", study="mine")
    with pytest.raises(StoreError, match=r"study:\n  data: there (.|\n)*space\.data\.name: there 'folder:"):
        fake(other)


def test_a_study_in_use_is_refused():
    spec = resolve(options())
    with locked(spec.folder.lock), pytest.raises(InUseError, match="in use by another") as found:
        fake(options())
    assert found.value.exit_code == 2


def test_a_runs_folder_that_cannot_be_written_is_refused():
    Path("runs").touch()
    with pytest.raises(StoreError, match="cannot be written") as found:
        fake(options())
    assert found.value.exit_code == 2


def test_a_disk_that_fills_up_stops_the_study_and_the_same_command_continues(faked):
    """A limit on the size of files refuses by the same calls as a full disk does: here the study's record.

    The database is only a copy for dashboards; that it cannot be written is a warning.
    """
    said = []
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, before[1]))
    try:
        with pytest.raises(StoreError, match=r"study\.json: cannot be written \(File too large\)") as found:
            fake(options(), lambda event: said.append(getattr(event, "text", "")))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert found.value.exit_code == 2
    assert any("study.db: cannot be written" in text and "the study goes on" in text for text in said)
    assert core(fake(options())) == core(faked.record)
    assert len(all_trained()) == len(set(all_trained()))


def test_a_cache_that_cannot_be_written_is_said_by_its_path(monkeypatch):
    Path("mine").touch()
    monkeypatch.setenv("AUTODISTILL_CACHE", str(Path("mine").absolute()))
    with pytest.raises(StoreError, match=r"mine: cannot be written \(a file, not a folder\)"):
        resolve(options())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused():
    Path("runs").mkdir(mode=0o500)
    with pytest.raises(StoreError, match="cannot be written"):
        fake(options())


def test_a_teacher_that_changed_under_its_name_is_another_study(reference):
    (source,) = reference.cache.glob("ladder/*/resnet8-0.25.safetensors")
    (other,) = reference.cache.glob("ladder/*/resnet8-0.5.safetensors")
    Path("mine.safetensors").write_bytes(source.read_bytes())
    asked = options(teachers=("file:mine.safetensors",), budget="11", study="mine")
    with pytest.raises(Killed):
        fake(asked, kill_after(1))
    assert resolve(asked).teachers == {"mine": "file:mine.safetensors"}
    Path("mine.safetensors").write_bytes(other.read_bytes())
    with pytest.raises(StoreError, match=r"fingerprints\.mine: there"):
        fake(asked)


WITHOUT_IMAGES = {
    "budget": ({"budget": "twenty"}, r"--budget twenty: must be a number above 0"),
    "too small": ({"budget": "8.5"}, r"--budget 8\.5: .* the smallest is 9 "),
    "trials": ({"max_trials": 1}, r"--max-trials 1: must be at least 2"),
    "key": ({"more": ["training.epoch=3"]}, r"training\.epoch: unknown key \(did you mean 'epochs'"),
    "student": ({"student": "mobilnetv2"}, r"unknown network 'mobilnetv2' \(did you mean 'mobilenetv2'"),
    "scheme": ({"teachers": ("fil:a.pt",)}, r"unknown scheme 'fil' \(did you mean 'file'"),
    "member": ({"teachers": ("ladder:", "ensemble:a+b")}, r"no teacher of this study is named 'a'"),
}


@pytest.mark.parametrize("case", WITHOUT_IMAGES)
def test_what_needs_no_image_is_checked_before_the_images_are_loaded(case):
    flags, message = WITHOUT_IMAGES[case]
    flags = dict(flags)

    def no_images(*_: object) -> Any:
        raise AssertionError("the images were loaded")

    with pytest.raises(AutodistillError, match=message) as found:
        resolve(options(*flags.pop("more", ()), **flags), load_data=no_images)
    assert found.value.exit_code == 2


WITHOUT_TEACHERS = {
    "parameters": ({"limits": StudentBudget(params=5)}, r"breaks its limits: resnet8:0\.25: .*\(limit 5 params\)"),
    "latency": ({"limits": StudentBudget(latency_ms=1e-6)}, r"breaks its limits: resnet8:0\.25: "),
    "batch": ({"more": ["training.batch_size=101"]}, r"training\.batch_size: 101 is more than the 100"),
    "cache": ({"cache_size": "10"}, r"--cache-size 10: one view of 1 teachers takes"),
}


@pytest.mark.parametrize("case", WITHOUT_TEACHERS)
def test_what_needs_no_teacher_is_checked_before_the_teachers_are_loaded(case):
    """The teacher is one that cannot be loaded."""
    flags, message = WITHOUT_TEACHERS[case]
    flags = dict(flags)
    with pytest.raises(ConfigError, match=message):
        resolve(options(*flags.pop("more", ()), teachers=("file:gone.pt",), **flags))


def test_a_dataset_that_is_registered_after_the_import_is_known(monkeypatch):
    with pytest.raises(ConfigError, match=r"data\.name: unknown dataset 'mine'"):
        resolve(options("data.name=mine"), planned=False)
    monkeypatch.setitem(DATASETS, "mine", DATASETS["digits"])
    assert resolve(options("data.name=mine"), planned=False).data.num_classes == 10
