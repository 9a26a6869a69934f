"""Settings of methods in a space: ranges of the source, and mistakes that are found before any work."""

from dataclasses import replace
from pathlib import Path

import pytest
from toy_runs import toy

from autodistill.config import Range, Space, dump, load, nearest_prior
from autodistill.errors import ConfigError
from autodistill.methods import METHODS
from autodistill.searching import make_plan
from autodistill.study import KNOWN
from autodistill.study.fitting import check_methods, fit_to_classes


def loaded(text: str = "", *overrides: str) -> Space:
    Path("mine.toml").write_text(text)
    return load("mine.toml", known=KNOWN, overrides=overrides)


def refused(text: str, *, classes: int = 10) -> str:
    """Load a space and try its methods; return the error."""
    data = replace(toy(), name="made up", classes=tuple(map(str, range(classes))))
    try:
        check_methods(fit_to_classes(loaded(text), data)[0], classes)
    except ConfigError as error:
        return error.message
    pytest.fail("nothing was refused")


@pytest.mark.parametrize("name", METHODS)
def test_an_empty_table_takes_the_ranges_of_the_source(name):
    space = loaded(f"[search.methods.{name}]")
    assert space.search.methods == {name: dict(METHODS[name].ranges)}
    check_methods(space, 10)
    assert load("mine.toml", known=KNOWN, overrides=[f"search.methods.{name}={{}}"]) == space
    Path("again.toml").write_text(dump(space))
    assert load("again.toml", known=KNOWN) == space


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"ts", "isats", "ats"}))
def test_the_prior_of_a_space_of_other_methods_is_the_setting_of_the_source(name):
    prior = loaded(f"[search.methods.{name}]").prior
    own = {key: METHODS[name].settings[key] for key in METHODS[name].ranges}
    assert (prior.method, prior.params) == (name, pytest.approx(own))


def test_a_prior_that_is_named_is_kept_and_plain_kd_comes_first():
    text = '[search.methods.dkd]\n[prior]\nmethod = "dkd"\nparams = {tau = 2.0, alpha = 1.0, beta = 2.0}'
    assert loaded(text).prior.params == {"tau": 2.0, "alpha": 1.0, "beta": 2.0}
    both = loaded("[search.methods.dkd]\n[search.methods.ts]")
    assert (both.prior.method, both.prior.params, both.prior.soft_weight) == ("ts", {"tau": 4.0}, 0.9)
    third = loaded("[search.methods.dkd]\n[search.methods.isats]").prior
    assert (third.method, third.params) == ("isats", {"target_ratio": 5 / 3, "tau_student": 4.0})
    with pytest.raises(ConfigError, match=r"prior\.params\.beta: 99\.0 is not in 0\.5 to 16"):
        loaded(text.replace("beta = 2.0", "beta = 99.0"))


def test_a_table_that_is_not_empty_is_not_filled():
    space = loaded("[search.methods.dkd]\nbeta = {low = 1.0, high = 4.0}\n[search.methods.dist]")
    assert space.search.methods["dkd"] == {"beta": Range(low=1.0, high=4.0)}
    assert space.search.methods["dist"] == dict(METHODS["dist"].ranges)
    assert space.prior == nearest_prior(space.search, "dkd", METHODS["dkd"].settings)
    assert space.prior.params == {"beta": 4.0}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_the_epochs_of_a_ramp(name):
    space = loaded(f"[search.methods.{name}]", f"search.methods.{name}.ramp_epochs=5")
    assert space.search.methods[name] == {"ramp_epochs": 5.0}
    zero = loaded("", "search.methods.isats.ramp_epochs=0", "search.methods.isats.target_ratio=2")
    check_methods(zero, 10)
    assert zero.search.methods["isats"]["ramp_epochs"] == 0


MISTAKES = {
    "parameter of another method": (
        "[search.methods.ts]\ntau = 4.0\nalpha = 1.0",
        "search.methods.ts.alpha: unknown parameter (allowed: logits, ramp_epochs, tau, tau_student); "
        "it is a parameter of dkd",
    ),
    "near parameter": (
        "[search.methods.dkd]\nbeat = 8.0",
        "search.methods.dkd.beat: unknown parameter (did you mean 'beta'",
    ),
    "near method": ("[search.methods.dkb]", "search.methods.dkb: unknown method 'dkb' (did you mean 'dkd'"),
    "weight of the search": (
        "[search.methods.dkd]\nsoft_weight = 0.5",
        "search.methods.dkd.soft_weight: unknown parameter (",
    ),
    "temperature": ("[search.methods.dkd]\ntau = 0.0", "search.methods.dkd.tau: must be above 0 (got 0)"),
    "negative weight": (
        "[search.methods.dkd]\nalpha = -1.0",
        "search.methods.dkd: alpha is -1.0: a weight must be at least 0 and finite",
    ),
    "negative end": (
        "[search.methods.dist]\ngamma = {low = -0.5, high = 2.0}",
        "search.methods.dist: gamma is -0.5: a weight must be at least 0",
    ),
    "word": (
        '[search.methods.dkd]\nlogits = "zscore"',
        "search.methods.dkd: unknown logits 'zscore'; allowed: raw, standardised",
    ),
    "choice": (
        '[search.methods.dist]\nscaling = ["none", "paper"]',
        "search.methods.dist: unknown scaling 'paper'; allowed: tau_squared, none",
    ),
    "number for a word": ("[search.methods.ttm]\nbeta = 'much'", "search.methods.ttm: "),
    "ramp": (
        "[search.methods.ts]\ntau = 4.0\nramp_epochs = -1",
        "search.methods.ts.ramp_epochs: must be a number of epochs, at least 0",
    ),
    "ramp as a word": (
        "[search.methods.ts]\ntau = 4.0\nramp_epochs = 'long'",
        "search.methods.ts.ramp_epochs: must be a number of epochs, at least 0",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_in_a_method_is_named_before_any_work(case):
    text, message = MISTAKES[case]
    assert message in refused(text)


def test_a_weight_that_belongs_to_the_search_is_said_where_it_belongs():
    assert "; the weight of the soft term is search.soft_weight" in refused("[search.methods.dkd]\nsoft_weight = 0.5")


def test_all_mistakes_are_named_at_once():
    text = "[search.methods.dkb]\n[search.methods.ts]\ntua = 1.0\n[search.methods.isats]\ntau = 1.0"
    found = refused(text)
    assert found.startswith("3 mistakes")
    for key in ("search.methods.dkb: ", "search.methods.ts.tua: ", "search.methods.isats.tau: "):
        assert key in found
    text = "[search.methods.dkd]\nalpha = -1.0\n[search.methods.ttm]\nbeta = -2.0\n[search.methods.dist]\nscaling = 'x'"
    lines = refused(text).splitlines()
    assert [line.split(":")[0] for line in lines] == [f"search.methods.{name}" for name in ("dkd", "ttm", "dist")]


def test_methods_that_need_more_classes_are_named_together_with_other_mistakes():
    names = ("isats", "dkd", "dist")
    assert [name for name, method in METHODS.items() if method.min_classes == 3] == [*names]
    tables = "\n".join(f"[search.methods.{name}]" for name in names)
    lines = refused(f"{tables}\n[search.methods.ts]\ntau = 4.0\nlogits = 'standardised'", classes=2).splitlines()
    needs = "needs at least 3 classes; made up has 2"
    assert lines[:3] == [f"search.methods.{name}: {name} {needs}" for name in names]
    assert lines[3].startswith("search.methods.ts: logits = 'standardised' needs at least 3 classes")


@pytest.mark.parametrize("name", sorted(name for name, method in METHODS.items() if method.min_classes == 2))
def test_the_other_methods_work_with_two_classes(name):
    check_methods(loaded(f"[search.methods.{name}]"), 2)


def test_the_shipped_space_of_methods_pays_for_controls_and_searches_what_each_method_has():
    space = load(str(Path(__file__).parents[2] / "search_spaces" / "methods.toml"), known=KNOWN)
    assert {name: set(params) for name, params in space.search.methods.items()} == {
        name: set(METHODS[name].ranges) for name in ("ts", "isats", "dkd")
    }
    plan = make_plan(space, teachers=4, requested=space.search.budget)
    assert plan.controls > 0
    assert plan.search > plan.priors
    assert (space.prior.method, space.prior.soft_weight, space.fit_to_data) == ("ts", 0.9, True)
    check_methods(space, 3)
