"""What all tests of the experiment share."""

import pytest

from experiment import experiment


@pytest.fixture(autouse=True)
def every_asset_can_be_had(monkeypatch):
    """Ask no package manager of this machine."""
    monkeypatch.setattr(experiment, "unavailable", lambda specs: {})
