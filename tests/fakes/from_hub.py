"""A project that fetches from a loopback hub."""

from pathlib import Path

from hub import Hub
from project import Project

ENVIRONMENT = {"HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1,localhost"}


def locked_and_run(project: Project, repositories: Path) -> None:
    """Serve `<kind>/tiny/<name>` below a folder, lock all that the config names, and run it: both have to succeed."""
    with Hub() as hub:
        for repository in sorted(repositories.glob("*/tiny/*")):
            hub.put(f"tiny/{repository.name}", repository, repository.parents[1].name)
        command = "PYTHONPATH=workflow:. python -m scripts.update_lock --configfile config/config.yaml"
        locked = project.shell(command, HF_ENDPOINT=hub.url, **ENVIRONMENT)
        assert locked.code == 0, locked.text
        done = project.run(HF_ENDPOINT=hub.url, **ENVIRONMENT)
        assert done.code == 0, done.text[-6000:]
