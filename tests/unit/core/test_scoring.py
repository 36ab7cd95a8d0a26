"""The defaults of `scoring:` are the same for commands, the plan and the description of the config."""

import re

import pytest
import yaml
from models import ROOT

from nan_merge.core.scoring import BATCH, BENCHMARK_BATCH, PRECISIONS
from scripts import evaluate_benchmark, evaluate_checkpoint, evaluate_models

COMMANDS = {evaluate_checkpoint: BATCH, evaluate_benchmark: BENCHMARK_BATCH, evaluate_models: BENCHMARK_BATCH}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda module: module.__name__)
def test_a_command_has_the_defaults_that_the_config_states(command):
    parser = command.arguments()
    assert parser.get_default("batch_size") == COMMANDS[command] and parser.get_default("precision") == PRECISIONS[0]
    (precision,) = [action for action in parser._actions if action.dest == "precision"]
    assert tuple(precision.choices) == PRECISIONS
    scoring = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())["properties"]["scoring"]["properties"]
    assert [int(number) for number in re.findall(r"\d+", scoring["batch_size"]["description"])] == [BATCH, BENCHMARK_BATCH]
    assert tuple(scoring["precision"]["enum"]) == PRECISIONS and PRECISIONS[0] in scoring["precision"]["description"]
