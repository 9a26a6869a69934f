"""The same command with one more --teacher: the study continues with it."""

from pathlib import Path

import pytest
from fake_trainer import all_trained
from small_studies import NAME, Killed, core, fake, kept, kill_after, options, placed, results, stamps

from autodistill.errors import ConfigError, StoreError
from autodistill.records import Note, RunEnded

pytestmark = pytest.mark.slow

ONE, BOTH = ("ladder:resnet8:0.25",), ("ladder:resnet8:0.25", "ladder:resnet8:0.5")


@pytest.fixture(scope="module")
def joined_study(tmp_path_factory):
    place = tmp_path_factory.mktemp("joined")
    with placed(place):
        return place, join()


@pytest.fixture
def joined(joined_study, monkeypatch):
    """The folder of a finished study that a teacher has joined is the working folder; tests leave it as it is."""
    place, found = joined_study
    monkeypatch.setenv("AUTODISTILL_CACHE", str(place / "cache"))
    monkeypatch.chdir(place)
    return found


def join():
    before = fake(options(teachers=ONE, budget="8"))
    old = {run.run for run in before.runs()}
    fresh, notes = [], []

    def watch(event):
        if isinstance(event, Note):
            notes.append(event.text)
        if isinstance(event, RunEnded) and not event.reused:
            fresh.append(event.record.run)

    stamped = stamps(results(Path()))
    after = fake(options(teachers=BOTH, budget="16"), watch)
    return before, after, old, fresh, stamped


def test_one_more_teacher_joins_and_kept_runs_are_not_trained_again(joined):
    before, after, old, fresh, stamped = joined
    assert after.state == "complete"
    assert after.trials[: len(before.trials)] == before.trials
    assert {it.name for it in after.teachers} == {"resnet8:0.25", "resnet8:0.5"}
    (prior,) = [it for it in after.trials[len(before.trials) :] if it.kind == "prior"]
    assert prior.params.teacher == "resnet8:0.5"
    assert len(fresh) == len(set(fresh))
    assert not old & set(fresh)
    assert {path: stamp for path, stamp in stamps(results(Path())).items() if path in stamped} == stamped
    assert len(all_trained()) == len(set(all_trained())), "no epoch was trained twice"


def test_the_budget_counts_the_runs_from_before(joined):
    _, after, *_ = joined
    assert after.spent_epochs == sum(run.spent_epochs for run in after.runs())
    assert after.plan.total_epochs - after.plan.epochs_rung < after.spent_epochs <= after.plan.total_epochs


def test_the_record_says_who_joined_when(joined):
    before, after, *_ = joined
    (join,) = after.joins
    assert join.teachers == ("resnet8:0.25", "resnet8:0.5")
    assert join.trials == len(before.trials)
    assert set(after.spec.teachers) == {"resnet8:0.25", "resnet8:0.5"}
    assert fake(options(teachers=BOTH, budget="16")) == after, "the same command again"
    with pytest.raises(StoreError, match=r"holds another study:\n  .*resnet8:0\.5"):
        fake(options(teachers=ONE, budget="16"))
    assert kept() == after


def test_a_teacher_joins_a_study_that_was_killed_at_any_event(uncopied):
    """Trials that had no full run yet end as they are; trials without a result are asked for anew."""
    whole = fake(options(teachers=ONE, budget="8", study="whole"))
    assert whole.state == "complete"
    for count in (8, 25, 50):
        study = f"killed-{count}"
        with pytest.raises(Killed):
            # Another folder of studies: nothing is to be found there.
            fake(options(teachers=ONE, budget="8", study=study, runs=study), kill_after(count))
        asked = options(teachers=BOTH, budget="16", study=study, runs=study)
        with pytest.raises(Killed):
            fake(asked, kill_after(count))
        record = fake(asked)
        assert record.state == "complete"
        assert len(record.joins) == 1
        assert record.spent_epochs == sum(run.spent_epochs for run in record.runs()) <= record.plan.total_epochs
        assert all(trial.state != "running" for trial in record.trials)
        assert {trial.params.teacher for trial in record.trials} == {"resnet8:0.25", "resnet8:0.5"}
        assert core(fake(asked)) == core(record)


def test_a_budget_without_room_for_the_teacher_is_refused_and_the_study_stays_as_it_was(uncopied):
    before = fake(options(teachers=ONE, budget="12"))
    files = [Path("runs", NAME, name) for name in ("study.json", "space.toml")]
    contents = [path.read_bytes() for path in files]
    with pytest.raises(ConfigError, match=r"--budget 12: .*nothing is left for the teacher that joins") as error:
        fake(options(teachers=BOTH, budget="12"))
    # Of 12 full trainings, no teacher 1, reruns 1 and confirm 3 left 7 to the trials. To come: no teacher 1, the new
    # prior 1, reruns 2 and confirm 5.
    assert error.value.hint == "raise it to 16 or more"
    assert [path.read_bytes() for path in files] == contents
    assert fake(options(teachers=ONE, budget="12")) == before
    assert fake(options(teachers=BOTH, budget="16")).state == "complete"


def test_other_differences_are_refused_as_ever():
    before = fake(options(teachers=ONE, budget="8"))
    with pytest.raises(StoreError, match=r"training\.epochs: there 3, asked for 4"):
        fake(options("training.epochs=4", teachers=BOTH, budget="16"))
    assert kept() == before
    assert not Path("runs", NAME, "carried.json").exists()
