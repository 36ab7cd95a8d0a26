"""Tiny models that are trained once for all unit tests: read them, copy what is to be changed."""

import pytest


@pytest.fixture(scope="session")
def suite(tmp_path_factory):
    """A text encoder, three experts, their data sets and heads."""
    from calibration_suite import build_suite

    return build_suite(tmp_path_factory.mktemp("suite"))


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """CLIPs in the formats of both libraries."""
    from tiny_clips import build_world

    return build_world(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="session")
def tasks():
    """Two tasks of the CLIPs."""
    from calibration_suite import clip_tasks

    return clip_tasks()
