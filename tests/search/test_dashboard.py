"""`optuna-dashboard` opens the copy of a study's trials as it is."""

import json
from collections.abc import Iterator
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna_dashboard
import pytest
from databases import NAME
from optuna.storages import RDBStorage
from search_runs import FOUR, search, search_spec

from autodistill.searching import Mirror, SearchState
from autodistill.searching.database import close_storage, open_storage

pytestmark = pytest.mark.slow


def asked(app: Any, path: str) -> Any:
    environ: dict[str, Any] = {"PATH_INFO": path}
    setup_testing_defaults(environ)
    statuses: list[str] = []
    body = b"".join(app(environ, lambda status, headers, exc_info=None: statuses.append(status)))
    assert statuses == ["200 OK"]
    return json.loads(body)


@pytest.fixture(params=["own file", "server"])
def storage(request, tmp_path) -> Iterator[tuple[RDBStorage, SearchState]]:
    """A database to which a search was copied, and the search."""
    place = tmp_path / "study.db" if request.param == "own file" else request.getfixturevalue("postgres").fresh("shown")
    state, _ = search(search_spec(*FOUR))
    mirror = Mirror(place, name=NAME, identity="ours", say=lambda text: pytest.fail(text))
    mirror.close(state.sampler.trials)
    storage = open_storage(place if isinstance(place, str) else f"sqlite:///{place}")
    yield storage, state
    close_storage(storage)


def test_the_dashboard_shows_the_searched_trials(storage):
    database, state = storage
    app = optuna_dashboard.wsgi(database)
    (summary,) = asked(app, "/api/studies")["study_summaries"]
    assert summary["study_name"] == NAME
    trials = asked(app, f"/api/studies/{summary['study_id']}")["trials"]
    states = {"complete": "Complete", "pruned": "Pruned", "failed": "Fail"}
    assert [trial["state"] for trial in trials] == [states[trial.state] for trial in state.trials]
    params = [{it["name"]: it["param_external_value"].strip("'") for it in trial["params"]} for trial in trials]
    assert [it["teacher"] for it in params] == [trial.params.teacher for trial in state.trials]
    scores = [[it["value"] for it in trial["intermediate_values"]] for trial in trials]
    assert scores == [[run.val_top1 for run in (trial.rung, trial.full) if run] for trial in state.trials]
