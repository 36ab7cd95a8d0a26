"""A fabricated run of the default config, which several modules read."""

import pytest
from fabricated_run import FabricatedRun, quick


@pytest.fixture(scope="session")
def default_run(tmp_path_factory):
    """A finished run of the default config with drawn answers, and its report; shared: leave it as it is."""
    with quick(flips=9999):  # so many that merges can be told apart
        made = FabricatedRun(tmp_path_factory.mktemp("default_run"), {})
        made.report()
    return made
