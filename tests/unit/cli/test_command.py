"""The command `nan-merge`: helps, exit codes, what goes to which stream, and what a program reads."""

import json
import os
import re
import subprocess
import sys

import pytest
import yaml
from models import ROOT, family, tensors_of
from project import LIMIT

from nan_merge.cli import merge
from nan_merge.cli.main import ANYWHERE, IN_A_CHECKOUT
from nan_merge.cli.parser import command_parser
from nan_merge.layouts.mismatch import MISSING
from nan_merge.layouts.vocabulary import POLICIES
from nan_merge.standalone.merge_models import TYPES

COMMANDS = [*ANYWHERE, *IN_A_CHECKOUT]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "workflow")}
PYTHON = [sys.executable, "-m", "nan_merge.cli"]


def run(*words, folder=ROOT, **how):
    """Run the command and return how it ended."""
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": ENVIRONMENT, "timeout": LIMIT} | how
    return subprocess.run([*PYTHON, *map(str, words)], cwd=folder, text=True, check=False, **how)


def options(folder, *more, method="ties+nan_delta"):
    experts = [f"--expert={folder / name}" for name in "ab"]
    return ["merge", "--base", folder / "base", *experts, "--method", method, "--output", folder / "out", *more]


# ---- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_a_help_fits_a_screen_and_has_an_example(command):
    done = run(*[command][: len(command)], "--help")
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and done.stderr == ""
    assert len(lines) <= 24 and max(map(len, lines)) <= 100
    assert lines[0].startswith(f"usage: {f'nan-merge {command}'.strip()} ")
    assert lines[-1].startswith(f"example: nan-merge {command or 'merge'}")


def test_the_help_of_all_names_every_command():
    shown = run("--help").stdout
    assert [line.split()[0] for line in shown.splitlines() if re.match(r"  [a-z]", line)] == COMMANDS
    assert run().stdout == shown


@pytest.mark.parametrize("command", ANYWHERE)
def test_a_help_does_not_wait_for_the_library(command):
    program = (
        "import contextlib, sys\nfrom nan_merge.cli.main import main\n"
        f"with contextlib.suppress(SystemExit): main([{command!r}, '--help'])\n"
        "sys.exit(','.join({'numpy', 'yaml', 'numba', 'jsonschema', 'torch'} & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_choices_of_the_help_are_those_of_the_library():
    assert (POLICIES, MISSING, tuple(TYPES)) == (merge.VOCABULARY, merge.MISSING, merge.TYPES)


def test_the_version_is_that_of_the_package():
    assert re.fullmatch(r"nan-merge (\d+\.\d+\.\d+|\(not installed\))\n", run("--version").stdout)


# ---- exit codes and streams -------------------------------------------------------------------------------------------


WRONG = {
    "no such command": (["mege"], "unknown command 'mege'; did you mean 'merge'?"),
    "an option that is missing": (["merge", "--base", "b"], "the following arguments are required: --expert"),
    "an option that is unknown": (["methods", "--jsn"], "unknown option --jsn; did you mean '--json'?"),
    "a letter too much": (["merge", "--base", "b", "--experts", "a"], "unknown option --experts; did you mean '--expert'?"),
    "a letter too few": (["merge", "--ouput=o", "--expert", "a"], "unknown option --ouput; did you mean '--output'?"),
    "the beginning of another": (["merge", "--export", "a=A"], "unknown option --export; did you mean '--expert'?"),
    "the beginning of one": (["merge", "--base", "b", "--over"], "unknown option --over; did you mean '--overwrite'?"),
    "one dash": (["merge", "-output", "o"], "unknown option -output; did you mean '--output'?"),
    "an option of a mergekit file": (
        ["import-mergekit", "m.yml", "--ouput=o"],
        "unknown option --ouput; did you mean '--output'?",
    ),
    "an option of a script": (["lock", "--suites", "text"], "unknown option --suites; did you mean '--suite'?"),
    "an option like none": (["merge", "--xyz"], "nan-merge merge --help lists all"),
    "a number of threads": (["merge", "--threads", "0"], "expected a whole number from 1, found 0"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_command_line_is_2_with_its_usage(mistake):
    words, message = WRONG[mistake]
    done = run(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr and done.stderr.startswith("usage: nan-merge ")


def test_a_mistake_in_a_value_is_1_with_one_line(tmp_path):
    done = run("merge", "--base", "nowhere", "--expert", "x", "--method", "ties", "--output", tmp_path / "out")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: nowhere: no such folder here") and done.stderr.count("\n") == 1


def test_results_go_to_stdout_and_progress_and_notes_to_stderr(tmp_path):
    family(tmp_path)
    done = run(*options(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("coefficients of ties+nan_delta:\n")
    assert re.search(rf"\n{tmp_path / 'out'}: written in \d+\.\d s\n$", done.stdout)
    assert f"a: {tmp_path / 'a'}\n" in done.stderr and "merge: 100%" in done.stderr
    quiet = run(*options(tmp_path, "--overwrite", "--quiet"))
    assert (quiet.returncode, quiet.stderr) == (0, "")


def test_a_program_reads_the_result_as_json(tmp_path):
    family(tmp_path)
    found = json.loads(run(*options(tmp_path, "--json")).stdout)
    record = json.loads((tmp_path / "out/provenance.json").read_text())
    assert found["output"] == str(tmp_path / "out") and found["method"] == "ties+nan_delta"
    assert found["coefficients"] == {
        expert: {"model": value} for expert, value in zip("ab", record["coefficients"]["rows"]["model"], strict=True)
    }


def test_paths_are_relative_to_where_the_user_stands(tmp_path):
    family(tmp_path)
    done = run("merge", "--base", "base", "--expert", "a", "--expert", "b", "--method", "ties", "--output", "o", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert tensors_of(tmp_path / "o")


def test_a_reader_that_goes_leaves_no_traceback():
    line = " ".join([*PYTHON, "methods"])
    done = subprocess.run(f"{line} | head -1; exit ${{PIPESTATUS[0]}}", shell=True, executable="/bin/bash", env=ENVIRONMENT,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.stdout.startswith("hosts:") and done.stderr == "" and done.returncode in (0, 141)
    with open(os.devnull) as nothing:  # writing to it fails at once
        reader, writer = os.pipe()
        os.close(reader)
        done = run("methods", stdout=writer, stdin=nothing)
        os.close(writer)
    assert done.returncode in (0, 141) and done.stderr == ""  # argparse is silent about it


def test_ctrl_c_in_the_middle_of_a_merge_leaves_one_line_and_no_output(tmp_path):
    family(tmp_path)
    before = sorted(tmp_path.iterdir())
    program = (
        "import os, signal, sys, time\nfrom nan_merge.checkpoints.writer import Writer\nfrom nan_merge.cli import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell started in the background\n"
        "once = iter([signal.SIGINT])\n"
        "Writer.write = lambda *values: (os.kill(os.getpid(), next(once, 0)), time.sleep(0.1))\n"
        f"sys.argv = ['nan-merge', *{list(map(str, options(tmp_path, '--threads', '2')))!r}]\nmain.run()"
    )
    done = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    assert done.stderr.splitlines()[-1] == "interrupted; no partial result was kept" and "Traceback" not in done.stderr
    assert sorted(tmp_path.iterdir()) == before


# ---- methods ----------------------------------------------------------------------------------------------------------


def test_methods_are_listed_with_a_line_each():
    lines = run("methods").stdout.splitlines()
    assert [line for line in lines if line.startswith("  ties ")] == [
        "  ties".ljust(lines[1].index("the base model"))
        + "trim to the largest 20 % of the whole model, elect signs, sum entries that agree, the form of NAN's tables"
    ]
    assert next(line for line in lines if line.startswith("  nan_delta ")).endswith("coefficients by 1/|τ| of the whole model")
    assert next(line for line in lines if line.startswith("  fisher ")).endswith("[needs train]")
    listed = json.loads(run("methods", "--json").stdout)
    assert len(listed["hosts"]) + len(listed["variants"]) + 3 == len(lines)


def test_one_method_is_shown_as_the_config_has_it():
    shown = run("methods", "ties").stdout
    assert yaml.safe_load(shown)["ties"]["combine"] == {"disjoint_sum": {}}
    assert shown.endswith("\n  takes: pieces\n") and run("methods", "tsv_m+nan_delta").stdout.endswith(
        "\n  takes: whole tensors\n"
    )
    assert "takes" not in run("methods", "pretrained").stdout
    assert json.loads(run("methods", "ties", "--json").stdout) == yaml.safe_load(shown)
    done = run("methods", "tise")
    assert done.returncode == 1 and "did you mean 'ties'?" in done.stderr


# ---- the scripts of a checkout ----------------------------------------------------------------------------------------


def fake_checkout(folder):
    """Make the least that is a checkout, whose scripts tell what they got."""
    (folder / "workflow/nan_merge").mkdir(parents=True)
    (folder / "scripts").mkdir()
    (folder / "Snakefile").touch()
    (folder / "scripts/__init__.py").touch()
    tell = "import json, os, sys\nprint(json.dumps([os.getcwd(), sys.argv[1:], os.environ['PYTHONPATH']]))\nsys.exit(7)\n"
    for script in ("show_status", "update_lock"):
        (folder / f"scripts/{script}.py").write_text(tell)
    return folder


def test_a_command_of_a_checkout_runs_its_own_scripts_where_the_user_stands(tmp_path):
    root = fake_checkout(tmp_path / "checkout")
    (root / "config/deep").mkdir(parents=True)
    (root / "config/deep/scripts").mkdir()  # another package of that name, which is not taken
    for folder in (root, root / "config/deep"):
        done = run("status", "--json", folder=folder)
        assert done.returncode == 7, done.stderr
        path = os.pathsep.join(map(str, (root / "workflow", root, ROOT / "workflow")))
        assert json.loads(done.stdout) == [str(folder), ["--directory", str(root), "--json"], path]
    (root / "config/deep/.snakemake").mkdir()  # a run of its own
    assert json.loads(run("status", folder=root / "config/deep").stdout)[1] == ["--directory", str(root / "config/deep")]
    assert json.loads(run("lock", "an_asset", folder=root).stdout)[1] == ["an_asset"]


def test_elsewhere_it_is_the_checkout_of_the_package(tmp_path):
    done = run("clean", "--dry-run", folder=tmp_path)
    assert done.returncode == 0 and done.stdout.endswith(" partial files or folders\n")


def test_without_a_checkout_the_way_to_get_one_is_said(tmp_path):
    program = (
        "from nan_merge.catalogue import places\nfrom nan_merge.cli import main\nimport sys\n"
        "places.checkout = lambda: None\nsys.argv = ['nan-merge', 'plan']\nmain.run()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "there is none at" in done.stderr and "git clone" in done.stderr


def test_a_package_that_is_not_installed_is_named(tmp_path):
    (tmp_path / "trap").mkdir()
    (tmp_path / "trap/torch.py").write_text("raise ModuleNotFoundError('no torch', name='torch')")
    family(tmp_path)
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{tmp_path / 'trap'}:{ROOT / 'workflow'}"}
    done = run(*options(tmp_path, "--device", "cuda"), env=environment)
    assert done.returncode == 1 and "needs the package torch, which is not installed here; run: pip install torch" in done.stderr
    assert run(*options(tmp_path), env=environment).returncode == 0


def test_a_chat_template_is_a_text_or_a_file(tmp_path):
    from nan_merge.cli.merge import template
    from nan_merge.core.errors import UserError

    text = "{% for message in messages %}{{ message }}\r\n{% endfor %}" + "{# longer than a name of a file #}" * 99
    (tmp_path / "template {x}.jinja").write_bytes(text.encode())
    assert template(text) == text == template(str(tmp_path / "template {x}.jinja"))
    (tmp_path / "plain.txt").write_text("no template")
    for wrong in (tmp_path / "plain.txt", tmp_path / "none.jinja", tmp_path, "chatml", "a\0b", "x" * 9999):
        with pytest.raises(UserError, match=r"^--chat-template .*template in Jinja.*; correct it"):
            template(str(wrong))


@pytest.mark.parametrize("words", [["lock", "--help"], ["clean", "--help"], ["evaluate", "--help"], ["methods"]])
def test_a_reader_that_goes_away_is_no_traceback(words):
    reader, writer = os.pipe()
    os.close(reader)
    done = run(*words, stdout=writer)
    os.close(writer)
    assert done.returncode in (0, 141) and done.stderr == ""  # argparse is silent about it


@pytest.mark.parametrize("option", ["--base=other", "--expert=c=other", "--method=slerp"])
def test_an_option_that_contradicts_a_file_of_mergekit_is_refused(option, tmp_path):
    family(tmp_path, experts=2)
    models = [{"model": str(tmp_path / name), "parameters": {"weight": 0.5}} for name in "ab"]
    config = {"merge_method": "linear", "models": models, "dtype": "float32"}
    (tmp_path / "m.yml").write_text(yaml.safe_dump(config))
    done = run("import-mergekit", tmp_path / "m.yml", "--output", tmp_path / "out", option)
    assert done.returncode == 1 and f"{option.partition('=')[0]}: {tmp_path / 'm.yml'} has it" in done.stderr


def test_what_follows_two_dashes_and_a_value_with_a_dash_are_no_options(tmp_path):
    (tmp_path / "-base").mkdir()
    for words in (["--", "--bas"], ["--exclude=--bas", "ties"]):
        with pytest.raises(SystemExit):  # both lack other options, and none is unknown
            merge.arguments().parse_args(["--expert", "x", *words])
    parser = command_parser("methods", "", "")
    parser.add_argument("name")
    assert parser.parse_args(["--", "--bas"]).name == "--bas"


def test_notes_of_a_mergekit_file_are_printed_unless_quiet(tmp_path):
    family(tmp_path, experts=2)
    models = [{"model": str(tmp_path / name), "parameters": {"weight": 0.5, "density": 0.5}} for name in "ab"]
    (tmp_path / "m.yml").write_text(yaml.safe_dump({"merge_method": "linear", "models": models, "dtype": "float32"}))
    said = run("import-mergekit", tmp_path / "m.yml", "--output", tmp_path / "out").stderr
    assert "note: density: has no effect for 'linear'" in said
    done = run("import-mergekit", tmp_path / "m.yml", "--output", tmp_path / "again", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_conversion_does_not_write_into_its_input(tmp_path):
    family(tmp_path, experts=1)
    done = run("convert", tmp_path / "base", "--to", "open_clip", "--output", tmp_path / "base/new")
    assert done.returncode == 1 and f"base/new: lies inside {tmp_path / 'base'}, which is read" in done.stderr
