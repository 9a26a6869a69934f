"""Spaces: what is shipped is valid, what is wrong is named, all at once."""

import tomllib

import pytest

from autodistill.config import (
    Known,
    LadderSpec,
    Range,
    SearchSpec,
    Space,
    bounds,
    default_prior,
    dump,
    load,
    parse,
    shipped,
)
from autodistill.errors import ConfigError
from autodistill.methods import METHODS, parameters_of
from autodistill.models.uri import parse as uri_parts
from autodistill.searching.plan import plain_kd_is_prior

KNOWN = Known(
    datasets=("digits", "fashion-mnist", "cifar10", "cifar100", "folder"),
    architectures=("resnet8", "resnet20", "resnet56", "resnet32x4"),
    methods=tuple(METHODS),
    parameters_of=parameters_of,
)


def mistakes(tree: dict[str, object]) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(tree, source="my.toml", known=KNOWN)
    return caught.value.message


@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_spaces_are_valid_and_survive_a_round_trip(name):
    space = load(name, known=KNOWN)
    assert parse(tomllib.loads(dump(space)), source="dumped", known=KNOWN) == space
    assert space.purpose


def test_the_spaces_of_the_design_are_shipped():
    assert set(shipped()) == {"digits", "fashion-mnist", "cifar100", "smoke", "folder", "methods"}


def test_every_mistake_is_named_at_once_with_file_key_value_and_what_is_allowed():
    found = mistakes(
        {
            "data": {"name": "digit"},
            "training": {"epochs": "many", "lrr": 0.1},
            "search": {"soft_weight": [0.5, 2.0], "methods": {"isatz": {}, "ts": {"tau": {"low": 4, "high": 1}}}},
            "ladder": {"architectures": ["resnet9"]},
        }
    )
    assert found.startswith("7 mistakes")
    for part in (
        "data.name: unknown dataset 'digit' (did you mean 'digits'?",
        "training.epochs: ",
        "(got 'many')",
        "training.lrr: unknown key (did you mean 'lr'?",
        "search.soft_weight: must lie in [0, 1]",
        "search.methods.isatz: unknown method 'isatz' (did you mean 'isats'",
        "search.methods.ts.tau: low 4 must be below high 1",
        "ladder.architectures: unknown architecture 'resnet9'",
    ):
        assert part in found


@pytest.mark.parametrize(
    ("tree", "part"),
    [
        ({"prior": {"method": "ts", "params": {"tau": 99.0}}}, "prior.params.tau: 99.0 is not in 1 to 16 (log)"),
        ({"prior": {"params": {}}}, "prior.params.tau: missing: set a value in 1 to 16 (log)"),
        (
            {"prior": {"method": "isats", "params": {}}},
            "prior.params.target_ratio: missing: set a value in 0.8 to 4 (log)",
        ),
        (
            {"prior": {"method": "isats", "params": {"target_ratio": 2.0}}},
            "prior.params.tau_student: missing: set a value in 1 to 8 (log)",
        ),
        ({"prior": {"soft_weight": 0.95}}, "prior.soft_weight: 0.95 is not in 0.1 to 0.9"),
        (
            {"search": {"methods": {"ts": {"tau": 4}}}, "prior": {"method": "isats", "params": {"target_ratio": 2.0}}},
            "prior.method: 'isats' is not searched (search.methods has ts)",
        ),
        (
            {"search": {"methods": {"ats": {"tau_target": 4, "tau_other": 3}}}, "prior": {"soft_weight": 0.5}},
            "prior.method: 'ts' is not searched (search.methods has ats)",
        ),
        (
            {"search": {"methods": {"ts": {"tau": [2, 8]}}}, "prior": {"soft_weight": 0.5}},
            "prior.params.tau: 4.0 is not in 2.0, 8.0",
        ),
        ({"search": {"methods": {"ts": {"tua": 4}}}}, "search.methods.ts.tua: unknown parameter (did you mean 'tau'?"),
        ({"search": {"methods": {"ts": {"tau": -4.0}}}}, "search.methods.ts.tau: must be above 0 (got -4)"),
        (
            {"training": {"epochs": 3, "rung_epochs": 3}},
            "training: epochs = 3 leaves no room for a rung of 3: at least 4 epochs, or at most 2 rung_epochs",
        ),
        ({"search": {"soft_weight": []}}, "search.soft_weight: a list of choices needs at least one"),
        ({"teachers": []}, "teachers: needs at least one URI"),
        ({"confirm": {"seeds": 0}}, "confirm.seeds: "),
        ({"teachers": [{"url": "ladder:"}]}, "teachers.0: a table needs uri, a text such as 'file:ckpt.safetensors'"),
        ({"teachers": ["ladder:", {"uri": "x:", "a": {"b": 1}}]}, "teachers.1: a: an option is a text, a number"),
        ({"stride": 1}, "stride: unknown key (did you mean 'student' or 'grid'?"),
        ({"student": {"stride": 1}}, "student.stride: unknown key (did you mean 'stem_stride'?"),
        ({"training": {"string": 1}}, "training.string: unknown key (did you mean "),
        ({"search": {"strength": {"Range": 1}}}, "search.strength: unknown key ("),
        ({"search": {"soft_weight": {"low": 0.1}}}, "search.soft_weight.high: Field required"),
        ({"search": {"soft_weight": [0.2, []]}}, "search.soft_weight.1: Input should be a valid number (got [])"),
    ],
)
def test_a_mistake_is_named(tree, part):
    assert part in mistakes(tree)


def test_the_loss_of_an_older_space_is_accepted_and_no_other():
    assert parse({"search": {"loss": "soft_cross_entropy"}}, source="my.toml", known=KNOWN) == Space()
    assert "search.loss: unknown key" in mistakes({"search": {"loss": "hinton"}})


def test_overrides_take_toml_values_and_bare_words():
    space = load(
        "digits", known=KNOWN, overrides=["training.epochs=9", "data.name=cifar10", "search.soft_weight=[0.2, 0.5]"]
    )
    assert (space.training.epochs, space.data.name, space.search.soft_weight) == (9, "cifar10", (0.2, 0.5))


@pytest.mark.parametrize("override", ["training.epochs", "=3", "training.epochs.deep=3"])
def test_a_broken_override_is_named(override):
    with pytest.raises(ConfigError, match="--set"):
        load("digits", known=KNOWN, overrides=[override])


def test_mistakes_of_flags_are_named_by_flag_and_those_of_the_file_by_file(tmp_path):
    path = tmp_path / "my.toml"
    path.write_text("purpos = 'typing'\n[training]\nepochs = 9\n")
    with pytest.raises(ConfigError) as caught:
        load(
            str(path),
            known=KNOWN,
            overrides=["ladder.lrr=1", "confirm.seeds=0", "training.epochs", "training.rung_epochs=9"],
            flags={"data.name": ("--data", "photos"), "search.seed": ("--seed", -1), "teachers": ("--teacher", [3])},
        )
    count, *lines = caught.value.message.splitlines()
    assert count == "8 mistakes"
    assert sorted(lines) == sorted(
        [
            "--set training.epochs: must be key=value, for example training.epochs=20",
            "--teacher: Input should be a valid string (got 3)",
            f"--set ladder.lrr: unknown key (did you mean 'lr'? allowed: {', '.join(sorted(LadderSpec.model_fields))})",
            "--seed: Input should be greater than or equal to 0 (got -1)",
            "--set confirm.seeds: Input should be greater than or equal to 1 (got 0)",
            f"{path}: purpos: unknown key (did you mean 'purpose' or 'prior'? allowed: "
            f"{', '.join(sorted(Space.model_fields))})",
            f"{path} with --set training.rung_epochs: training: epochs = 9 leaves no room for a rung of 9: at least 10 "
            "epochs, or at most 8 rung_epochs",
            "--data: unknown dataset 'photos' (allowed: cifar10, cifar100, digits, fashion-mnist, folder)",
        ]
    )
    assert "spaces check FILE" in caught.value.hint


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.epochs=many"], "--set training.epochs: Input should be a valid integer"),
        (["search={methods={ts={tua=1}}}"], "--set search.methods.ts.tua: unknown parameter (did you mean 'tau'?"),
        (
            ["prior.params.tau=2", "search.soft_weight=[0.2, 0.3]"],
            "search_spaces/digits.toml with --set prior.params.tau, --set search.soft_weight: prior.soft_weight: 0.9 "
            "is not in 0.2, 0.3",
        ),
    ],
)
def test_a_mistake_of_a_flag_is_no_mistake_of_a_shipped_file(overrides, message):
    with pytest.raises(ConfigError) as caught:
        load("digits", known=KNOWN, overrides=overrides)
    assert caught.value.message.startswith(message)
    assert "spaces check SPACE" in caught.value.hint


LOG = {"low": 1.0, "high": 16.0, "log": True}


@pytest.mark.parametrize(
    ("tree", "prior"),
    [
        pytest.param({}, ("ts", {"tau": 4.0}, 0.9), id="plain KD is searched"),
        pytest.param({"plain_kd": {"tau": 2, "soft_weight": 0.7}}, ("ts", {"tau": 2.0}, 0.7), id="another plain KD"),
        pytest.param({"plain_kd": {"tau": 40, "soft_weight": 1}}, ("ts", {"tau": 16.0}, 0.9), id="out of the search"),
        pytest.param(
            {"search": {"methods": {"ats": {"tau_target": LOG, "tau_other": LOG}, "ts": {"tau": LOG}}}},
            ("ts", {"tau": 4.0}, 0.9),
            id="TS is not the first method",
        ),
        pytest.param(
            {"search": {"methods": {"ts": {"tau": {"low": 5, "high": 9}}}}}, ("ts", {"tau": 5.0}, 0.9), id="above 4"
        ),
        pytest.param(
            {"search": {"methods": {"ts": {"tau": {"low": 1, "high": 3}}}, "soft_weight": {"low": 0.2, "high": 0.6}}},
            ("ts", {"tau": 3.0}, 0.6),
            id="below 4 and 0.9",
        ),
        pytest.param(
            {"search": {"methods": {"ts": {"tau": [1, 3, 8]}}, "soft_weight": [0.2, 0.7]}},
            ("ts", {"tau": 3.0}, 0.7),
            id="choices",
        ),
        pytest.param({"search": {"methods": {"ts": {"tau": 8}}}}, ("ts", {}, 0.9), id="a fixed parameter"),
        pytest.param({"search": {"soft_weight": 0.4}}, ("ts", {"tau": 4.0}, 0.4), id="a fixed weight"),
        pytest.param(
            {"search": {"methods": {"isats": {"target_ratio": {"low": 0.8, "high": 4.0}}}}},
            ("isats", {"target_ratio": 5 / 3}, 0.5),
            id="ISATS only",
        ),
        pytest.param(
            {"search": {"methods": {"isats": SearchSpec().methods["isats"]}}},
            ("isats", {"target_ratio": 5 / 3, "tau_student": 4.0}, 0.5),
            id="ISATS only, as it is searched by default",
        ),
        pytest.param(
            {
                "search": {
                    "methods": {"isats": {"target_ratio": [2.0, 3.0], "anchor": ["raw", "mean"]}},
                    "soft_weight": {"low": 0.6, "high": 0.9},
                }
            },
            ("isats", {"target_ratio": 2.0, "anchor": "raw"}, 0.6),
            id="ISATS without 5/3, and a choice of names",
        ),
        pytest.param(
            {"search": {"methods": {"ats": {"tau_target": LOG, "tau_other": {"low": 1, "high": 4}}}}},
            ("ats", {"tau_target": 4.0, "tau_other": 2.5}, 0.5),
            id="another method: in the middle",
        ),
        pytest.param(
            {"search": {"methods": {"ats": {"tau_target": 2, "tau_other": [3, 5]}}, "soft_weight": [0.1, 0.6]}},
            ("ats", {"tau_other": 3.0}, 0.6),
            id="another method: choices",
        ),
    ],
)
def test_a_space_without_a_prior_takes_what_is_nearest_to_plain_kd(tree, prior):
    """The middle of 1 to 16 on a log scale is 4; that of 1 to 4 is 2.5."""
    space = parse(tree, source="my.toml", known=KNOWN)
    assert (space.prior.method, space.prior.params, space.prior.soft_weight) == prior
    assert space.prior == default_prior(space.search, space.plain_kd)
    assert parse(tomllib.loads(dump(space)), source="dumped", known=KNOWN) == space


def test_a_prior_that_is_named_is_kept_and_what_it_leaves_open_is_plain_kd():
    def prior(tree: dict[str, object]) -> tuple[str, dict[str, float | str], float]:
        found = parse({"prior": tree}, source="my.toml", known=KNOWN).prior
        return found.method, found.params, found.soft_weight

    assert prior({}) == ("ts", {"tau": 4.0}, 0.9)
    assert prior({"soft_weight": 0.3}) == ("ts", {"tau": 4.0}, 0.3)
    assert prior({"params": {"tau": 2}}) == ("ts", {"tau": 2.0}, 0.9)
    isats = {"target_ratio": 2, "tau_student": 3}
    assert prior({"method": "isats", "params": isats}) == ("isats", {"target_ratio": 2.0, "tau_student": 3.0}, 0.9)


def test_a_flag_that_narrows_the_search_moves_a_prior_that_nobody_named():
    space = load("digits", known=KNOWN, overrides=["search.soft_weight=[0.2, 0.3]", "search.methods={ts={tau=[2, 3]}}"])
    assert (space.prior.params, space.prior.soft_weight) == ({"tau": 3.0}, 0.3)


@pytest.mark.parametrize(
    ("tree", "same"),
    [
        ({}, True),
        ({"prior": {}}, True),
        ({"search": {"methods": {"ts": {"tau": 4}}}}, True),
        ({"search": {"methods": {"ts": {"tau": [2, 4]}}}}, True),
        ({"plain_kd": {"tau": 8, "soft_weight": 0.5}}, True),
        ({"search": {"methods": {"ts": {"tau": 8}}}}, False),
        ({"search": {"soft_weight": [0.2, 0.8]}}, False),
        ({"prior": {"soft_weight": 0.8}}, False),
        ({"plain_kd": {"tau": 8}, "prior": {"params": {"tau": 4}}}, False),
        ({"prior": {"method": "isats", "params": {"target_ratio": 2, "tau_student": 4}}}, False),
        ({"search": {"methods": {"ts": {"tau": 4, "tau_student": 4}}}}, True),
        ({"search": {"methods": {"ts": {"tau": [2, 4], "tau_student": 4}}}}, True),
        ({"search": {"methods": {"ts": {"tau": [2, 4], "tau_student": 2}}}}, False),
        ({"search": {"methods": {"ts": {"tau": 2, "tau_student": 4}}}}, False),
        ({"search": {"methods": {"ts": {"tau": [2, 4], "tau_student": 4}}}, "prior": {"params": {"tau": 2}}}, False),
    ],
)
def test_plain_kd_is_a_prior_where_method_parameters_and_weight_are_equal(tree, same):
    assert plain_kd_is_prior(parse(tree, source="my.toml", known=KNOWN)) is same


def test_a_missing_file_and_broken_toml_are_named(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'digits'"):
        load("digit", known=KNOWN)
    with pytest.raises(ConfigError, match="cannot be read"):
        load(str(tmp_path / "none.toml"), known=KNOWN)
    broken = tmp_path / "broken.toml"
    broken.write_text("[data\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load(str(broken), known=KNOWN)


def test_a_short_run_is_a_third_unless_it_is_named():
    assert Space().training.rung == 10
    assert load("smoke", known=KNOWN).training.rung == 2


def test_teachers_may_be_tables_of_a_uri_and_its_options():
    text = """
    [[teachers]]
    uri = "ladder:"
    [[teachers]]
    uri = "file:runs/a 1.pt?arch=resnet20"
    mean = [0.5, 0.25]
    name = "old & new"
    [[teachers]]
    uri = "python:net.py:make"
    deep = true
    depth = 3
    sizes = [1, 2]
    classes = "names.txt"
    """
    space = parse(tomllib.loads(text), source="my.toml", known=KNOWN)
    assert [(uri.scheme, uri.target) for uri in map(uri_parts, space.teachers)] == [
        ("ladder", ""),
        ("file", "runs/a 1.pt"),
        ("python", "net.py:make"),
    ]
    one, other = (uri_parts(uri) for uri in space.teachers[1:])
    assert (one.options["arch"], one.numbers("mean"), one.options["name"]) == ("resnet20", (0.5, 0.25), "old & new")
    assert other.arguments() == {"deep": True, "depth": 3, "sizes": [1, 2]}
    assert other.options["classes"] == "names.txt"
    assert parse(tomllib.loads(dump(space)), source="dumped", known=KNOWN) == space


def test_bounds():
    assert bounds(Range(low=1, high=4)) == (1, 4)
    assert bounds((3.0, 1.0)) == (1.0, 3.0)
    assert bounds(2.0) == (2.0, 2.0)
    assert bounds(("raw", "mean")) is None
