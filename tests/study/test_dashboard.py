"""`optuna-dashboard` opens a study's file as it is."""

import json
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna_dashboard
import pytest
from small_studies import NAME

pytestmark = pytest.mark.slow


def asked(app: Any, path: str) -> Any:
    environ: dict[str, Any] = {"PATH_INFO": path}
    setup_testing_defaults(environ)
    statuses: list[str] = []
    body = b"".join(app(environ, lambda status, headers, exc_info=None: statuses.append(status)))
    assert statuses == ["200 OK"]
    return json.loads(body)


def test_the_dashboard_shows_the_searched_trials(finished):
    app = optuna_dashboard.wsgi(f"sqlite:///runs/{NAME}/study.db")
    (summary,) = asked(app, "/api/studies")["study_summaries"]
    assert summary["study_name"] == NAME
    trials = asked(app, f"/api/studies/{summary['study_id']}")["trials"]
    assert len(trials) == len(finished.trials)
    states = {"complete": "Complete", "pruned": "Pruned", "failed": "Fail"}
    assert [trial["state"] for trial in trials] == [states[trial.state] for trial in finished.trials]
    params = [
        {param["name"]: param["param_external_value"].strip("'") for param in trial["params"]} for trial in trials
    ]
    assert [it["teacher"] for it in params] == [trial.params.teacher for trial in finished.trials]
