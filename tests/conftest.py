"""Fixtures of the workflow tests: the tiny project is built and run once; every test gets a copy."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny
from filelock import FileLock
from project import Project, checkout, installed
from slurm_cluster import Cluster, OnCluster, small_merges


def pytest_configure(config: pytest.Config) -> None:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # with it, thousands of processes compile the library anew, each for itself
    config.addinivalue_line("markers", "slurm: a real SLURM on this machine; SLURM=1 installs its Debian packages")
    config.addinivalue_line("markers", "slow: longer than continuous integration has time for")
    config.addinivalue_line("markers", "demo: real experiments end to end; minutes, and the package index once")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the demos first, then those on a cluster, then those of the tiny project: quick files fill the end of two processes."""
    of_project = {item.path for item in items if "finished" in getattr(item, "fixturenames", ())}

    def turn(item: pytest.Item) -> tuple[bool, ...]:
        marked = (item.get_closest_marker(name) is None for name in ("demo", "slurm"))
        return (*marked, item.path not in of_project)

    items.sort(key=turn)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny project after one complete run; shared, also by the processes of `pytest -n 2`: read it, leave it as it is."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    project = Project(shared / "finished/project")
    with FileLock(shared / "finished.lock"):
        if not (shared / "finished/made").exists():
            shutil.rmtree(project.folder.parent, ignore_errors=True)  # of a process in which it failed
            project.folder.parent.mkdir()
            tiny.build(project.folder)
            project.made()
            (shared / "finished/made").touch()
    return project


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A fresh copy of the checkout after `make demo`; five minutes on two free cores."""
    project = installed(checkout(tmp_path_factory.mktemp("demo") / "checkout"))
    done = project.shell("make demo")
    assert done.code == 0, done.text[-6000:]
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished project, to be changed at will."""
    return finished.copy(tmp_path / "project")


@pytest.fixture
def run(project: Project, cluster: Cluster) -> Iterator[OnCluster]:
    """The finished project without its merges, on the cluster of the test's module."""
    project.remove("results/merged")
    project.edit("profiles/default/profile.v9+.yaml", small_merges)
    yield OnCluster(project, cluster)
    for number in cluster.jobs():
        cluster.ask("scancel", number)
    cluster.wait_until_idle()


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny project before any run; shared: read it, leave it as it is."""
    return Project(tiny.build(tmp_path_factory.mktemp("built") / "project"))


@pytest.fixture
def fresh(built: Project, tmp_path: Path) -> Project:
    """A copy of the tiny project before any run, to be changed at will."""
    return built.copy(tmp_path / "project")


@pytest.fixture
def isolated() -> Callable[..., tuple[str, ...]]:
    """Return the words that run a command in namespaces of its own (`--net`, `--mount`), or skip with the reason."""

    def words(*kinds: str) -> tuple[str, ...]:
        command = ("unshare", "--map-root-user", *kinds)
        try:
            tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("needs unshare of util-linux, which this machine does not have")
        if tried.returncode:
            pytest.skip(f"this machine refuses namespaces {kinds}: {tried.stderr.strip()}")
        return command

    return words
