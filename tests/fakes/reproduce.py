"""Run a command line that the project has written for people, as a shell reads it."""

import re
import subprocess

from nan_merge.cli import merge


def words(command):
    """Return the words of a `nan-merge merge` command line, as bash splits and expands it."""
    function = 'nan-merge() { printf "%s\\0" "$@"; }\n'
    done = subprocess.run(["bash", "-c", function + command], capture_output=True, check=True)
    return done.stdout.decode(errors="surrogateescape").split("\0")[:-1]


def run(command, *more):
    """Run a `nan-merge merge` command line in this process."""
    name, *given = words(command)
    assert name == "merge"
    merge.main([*given, *more])


def command_of(card):
    """Return the command line of a model card."""
    return re.search(r"^(`{3,})console\n(.*?)\n\1$", card, re.DOTALL | re.MULTILINE)[2]
