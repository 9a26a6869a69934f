"""What cannot be is refused before any work, with its reason."""

import os
import resource
import sys
from pathlib import Path
from typing import Any

import pytest
from dataset_files import write_images
from small_studies import NAME, TINY, core, drive, everything, request

from autodistill import __main__ as entry
from autodistill import storage
from autodistill.config import shipped
from autodistill.errors import AutodistillError, ConfigError, StoreError
from autodistill.store import cache_root, locked
from autodistill.study import KNOWN, prepare, run_study

pytestmark = pytest.mark.slow

REFUSED = {
    "student": ({"student": "mobilnetv2"}, r"unknown network 'mobilnetv2' \(did you mean 'mobilenetv2'"),
    "data": ({"data": "digitz"}, r"data\.name: unknown dataset 'digitz' \(did you mean 'digits'"),
    "rule": (
        {"more": ["search.rules.isatz.tau=4"]},
        r"search\.rules\.isatz: unknown rule 'isatz' \(did you mean 'isats'",
    ),
    "budget": (
        {"budget": "9.5"},
        r"--budget 9\.5: 9\.333 full trainings are too few for 2 teachers: the smallest is 10 ",
    ),
    "unit": ({"budget": "10 parsecs"}, r"--budget 10 parsecs: must be a number"),
    "batch": (
        {"more": ["training.batch_size=101"]},
        r"training\.batch_size: 101 is more than the 100 training images",
    ),
    "rungs": (
        {"more": ["training.short_epochs=3"]},
        r"training: epochs = 3 leaves no room for a short run of 3: at least 4 epochs, or at most 2 short_epochs",
    ),
    "one epoch": (
        {"more": ["training.epochs=1"]},
        r"training: epochs = 1 leaves no room for a short run of 1: at least 2 epochs$",
    ),
    "cache": ({"cache_size": "3999"}, r"--cache-size 3999: one view of 2 teachers takes 4000 bytes"),
    "trials": ({"max_trials": 1}, r"--max-trials 1"),
    "study": ({"study": "../elsewhere"}, r"--study \.\./elsewhere: must be a plain name"),
    "above": ({"study": ".."}, r"--study \.\.: must be a plain name"),
    "stride": ({"more": ["student.stem_stride=3"]}, r"student\.stem_stride"),
    "teacher": ({"teachers": ("file:gone.safetensors?arch=resnet8",)}, r"no such file: gone\.safetensors"),
    "nobody": ({"workers": 0}, r"--workers 0: nobody would train"),
    "count": ({"workers": "many"}, r"--workers many: must be a number or auto"),
    "storage": ({"storage": "mysql://me:pass@host/kd"}, r"--storage \*\*\*: is no address of a database"),
    "away": ({"storage": "postgresql://me:pass@/kd?host=/nowhere"}, r"--storage postgresql://me:\*\*\*@/kd\?\*\*\*"),
    "sizes": ({"more": ["data.train=5000"]}, r"data\.train"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_before_any_work(case, monkeypatch):
    monkeypatch.setattr(storage, "START_S", 0.2)
    flags, message = REFUSED[case]
    flags = dict(flags)
    before = everything(Path(), cache_root())
    with pytest.raises(AutodistillError, match=message) as found:
        prepare(request(*flags.pop("more", ()), **flags))
    assert "pass@" not in str(found.value)
    assert found.value.exit_code == 2
    assert everything(Path(), cache_root()) == before


@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        (("--set", "training.batch_size=101"), "hint: --set training.batch_size=64"),
        (("--set", "training.epochs=1", "--set", "training.short_epochs=1"), "at least 2 epochs"),
        (("--cache-size", "3999"), "hint: --cache-size 4000 holds one, 12000 all 3"),
    ],
)
def test_a_refusal_names_a_number_that_fits(monkeypatch, capsys, flags, hint):
    sizes = [it for override in TINY for it in ("--set", override)]
    monkeypatch.setattr(
        sys, "argv", ["autodistill", "search", "--student", "resnet8:0.25", "--space", "smoke", *sizes]
    )
    sys.argv.extend(flags)
    with pytest.raises(SystemExit) as ended:
        entry.run()
    assert ended.value.code == 2
    assert hint in capsys.readouterr().err
    assert not Path("runs").exists()


RULES = {
    "both": (
        ["search.rules.isats.target_ratio={low = 0.8, high = 4.0}", "search.rules.isats.tau_target=4"],
        r"search\.rules\.isats: target_ratio is 0\.8 and tau_target is 4\.0: give one",
    ),
    "corner": (
        [
            "search.rules.isats.target_ratio={low = 0.8, high = 4.0}",
            "search.rules.isats.tau_min={low = 0.5, high = 9.0}",
            "search.rules.isats.tau_max=8",
            "prior.params={target_ratio = 2.0, tau_min = 0.5}",
        ],
        r"search\.rules\.isats: tau_min is 9\.0 and tau_max is 8\.0",
    ),
    "anchor": (
        [
            "search.rules.isats.target_ratio=[1.6, 2.0]",
            'search.rules.isats.anchor="othermax"',
            "prior.params.target_ratio=2.0",
        ],
        r"search\.rules\.isats: unknown anchor 'othermax'; allowed: raw, mean, other_max, target",
    ),
    "missing": (
        ["search.rules.ts.tau_student=4", 'prior.rule="ts"', "prior.params={}"],
        r"search\.rules\.ts: .*'?tau'?",
    ),
    "word": (
        ['search.rules.ts.tau="four"', 'prior.rule="ts"', 'prior.params.tau="four"'],
        r"search\.rules\.ts: ",
    ),
    "student's word": (
        ["search.rules.ts.tau=4", 'search.rules.ts.tau_student="hot"', 'prior.rule="ts"', "prior.params={}"],
        r"search\.rules\.ts\.tau_student: must be a number above 0",
    ),
    "two at once": (
        [
            "search.rules.isats.target_ratio=[1.6, 2.0]",
            'search.rules.isats.tau_wrong="literel"',
            'search.rules.ats={tau_target = 2.0, tau_other = 4.0, anchor = "none"}',
            "prior.params.target_ratio=2.0",
        ],
        r"search\.rules\.isats: tau_wrong is 'literel'(.|\n)*search\.rules\.ats: unknown anchor 'none'",
    ),
}


@pytest.mark.parametrize("case", RULES)
def test_parameters_that_a_rule_refuses_are_found_before_any_work(case):
    overrides, message = RULES[case]
    with pytest.raises(ConfigError, match=message):
        prepare(request(*overrides))
    assert not everything(Path(), cache_root())


def test_the_shipped_spaces_pass_the_trial_of_their_rules():
    from autodistill.config import load
    from autodistill.study.trying import try_rules

    for name in shipped():
        try_rules(load(name, known=KNOWN), 10)


def two_classes(tmp_path: Path, *more: str) -> Any:
    write_images(tmp_path / "cats or dogs", ["cat", "dog"], count=40)
    sizes = ("data.train=40", "data.validation=20", "data.test=20", "data.crop=0", "training.batch_size=20")
    return request(*sizes, *more, data=f"folder:{tmp_path / 'cats or dogs'}")


def test_two_classes_leave_isats_out_and_say_so(tmp_path, here):
    prepared = prepare(two_classes(tmp_path))
    assert set(prepared.space.search.rules) == {"ts", "ats"}
    assert (prepared.space.prior.rule, prepared.space.prior.params) == ("ts", {"tau": 4.0})
    (note,) = prepared.notes
    assert "isats left out (needs at least 3 classes; folder:" in note
    first = next(run_study(prepared))
    assert (first.text, first.warning) == (note, True)
    own = prepare(two_classes(tmp_path, 'prior.rule="ats"', "prior.params={tau_target = 2.0, tau_other = 3.0}"))
    assert own.space.prior.rule == "ats"


@pytest.mark.parametrize(
    ("override", "key"),
    [("search.rules.isats.target_ratio=2.0", r"search\.rules\.isats"), ("prior.params.target_ratio=2.0", "prior")],
)
def test_naming_isats_with_two_classes_is_an_error(tmp_path, override, key):
    with pytest.raises(ConfigError, match=rf"{key}: isats needs at least 3 classes; .* has 2"):
        prepare(two_classes(tmp_path, override, "prior.params.target_ratio=2.0"))


def test_a_run_folder_of_another_study_is_refused_with_the_differences(here):
    events = run_study(prepare(request()))
    next(events)
    events.close()
    before = everything(Path(), cache_root())
    for other, difference in (
        (request("training.lr=0.07"), r"space\.training\.lr: there 0\.05, asked for 0\.07"),
        (request(student="resnet8:0.3", study=NAME), r"student: there 'resnet8:0\.25', asked for 'resnet8:0\.3'"),
        (request(seed=1), r"space\.search\.seed: there 0, asked for 1"),
    ):
        with pytest.raises(StoreError, match=rf"belongs to another study:\n(.|\n)*{difference}") as found:
            next(run_study(prepare(other)))
        assert found.value.exit_code == 2
    assert everything(Path(), cache_root()) == before


def test_a_study_in_use_is_refused(here):
    prepared = prepare(request())
    with locked(prepared.folder.lock), pytest.raises(StoreError, match="in use by another") as found:
        next(run_study(prepared))
    assert found.value.exit_code == 2


def test_a_runs_folder_that_cannot_be_written_is_refused(here):
    Path("runs").touch()
    with pytest.raises(StoreError, match="cannot be written") as found:
        next(run_study(prepare(request())))
    assert found.value.exit_code == 2


def test_a_disk_that_fills_up_stops_the_study_and_the_same_command_goes_on(here, warm, reference):
    """A limit on the size of files refuses by the same calls as a full disk does: here the study's database."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(StoreError, match=r"study\.db: cannot be written \(disk I/O error\)") as found:
            drive(request())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert found.value.exit_code == 2
    assert core(drive(request())) == core(reference.record)


def test_a_cache_that_cannot_be_written_is_said_by_its_path(here, monkeypatch):
    Path("mine").touch()
    monkeypatch.setenv("AUTODISTILL_CACHE", str(Path("mine").absolute()))
    with pytest.raises(StoreError, match=r"mine: cannot be written \(a file, not a folder\)"):
        prepare(request())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(here):
    Path("runs").mkdir(mode=0o500)
    with pytest.raises(StoreError, match="cannot be written"):
        next(run_study(prepare(request())))


def test_a_teacher_that_changed_under_its_name_is_another_study(reference, here):
    (source,) = reference.cache.glob("ladder/*/resnet8-0.25.safetensors")
    (other,) = reference.cache.glob("ladder/*/resnet8-0.5.safetensors")
    Path("mine.safetensors").write_bytes(source.read_bytes())
    asked = request(teachers=("file:mine.safetensors",), budget="11", study="mine")
    events = run_study(prepare(asked))
    next(events)
    events.close()
    assert prepare(asked).teachers == {"mine": "file:mine.safetensors"}
    Path("mine.safetensors").write_bytes(other.read_bytes())
    with pytest.raises(StoreError, match=r"fingerprints\.mine: there"):
        next(run_study(prepare(asked)))
