"""Databases for tests: a new SQLite file, or a new database of a real PostgreSQL server."""

import pytest


@pytest.fixture(params=["sqlite", pytest.param("server", marks=pytest.mark.slow)])
def url(request, tmp_path) -> str:
    if request.param == "server":
        name = "".join(it if it.isalnum() else "_" for it in request.node.name.lower())
        return request.getfixturevalue("postgres").fresh(f"kd{name[-50:]}")
    return f"sqlite:///{tmp_path}/kd.db"
