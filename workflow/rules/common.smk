# The checked config, and what all rules share: wildcard constraints, digests of code, the shell, checks before the first job.
import functools
import gc
import os
import re
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

gc.set_threshold(100_000)  # new objects between two searches for cycles: a plan makes many objects and few cycles
ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT / "workflow"))

from cluster.job_resources import memory, minutes, threads_for_models  # noqa: E402
from cluster.preflight import check_run  # noqa: E402
from experiment.checks import HARNESS_KEYS  # noqa: E402
from experiment.experiment import Experiment  # noqa: E402
from experiment.parts import ConfigParts  # noqa: E402
from nan_merge.catalogue.methods import COLLECTED_TOGETHER  # noqa: E402
from nan_merge.core.code_digest import Code  # noqa: E402
from nan_merge.core.errors import UserError  # noqa: E402
from nan_merge.core.files import canonical  # noqa: E402
from nan_merge.methods.recipe import STAGES  # noqa: E402
from nan_merge.methods.search_space import names  # noqa: E402
from nan_merge.models.own_tasks import definition  # noqa: E402
from planning.rate_limit import lift_default_rate  # noqa: E402


def checked(function, *arguments):
    """Call a function; a mistake of the user ends the run with one message."""
    try:
        return function(*arguments)
    except UserError as error:
        raise WorkflowError(str(error)) from None


def any_of(names):
    """A regular expression that matches exactly the given names (and nothing when there are none)."""
    return "|".join(sorted(map(re.escape, names))) or "(?!)"


digest = functools.cache(Code(ROOT, cache=Path(".snakemake/nan_merge_code.json")).digest)


def code(*modules):
    """The digest of modules and of everything that they import, read for rules with jobs: a changed function reruns the rule."""
    return lambda wildcards: digest(*modules)


def literal(text):
    """A text in which Snakemake finds no {names} to replace."""
    return text.replace("{", "{{").replace("}", "}}")


@functools.cache
def environment_file(name):
    """The conda environment of a rule."""
    return literal(str(ROOT / f"envs/{name}.yaml"))


parts = checked(ConfigParts.read, ROOT, workflow.overwrite_configfiles, workflow.config_settings.config)


configfile: f"{workflow.basedir}/config/config.yaml"  # after the check of its syntax


experiment = checked(Experiment, parts.onto(config), ROOT, parts)

if os.pathsep in str(ROOT):
    raise WorkflowError(
        f"{ROOT}: the folder's path holds '{os.pathsep}', which separates folders in PYTHONPATH; move it"
    )
LIBRARY = shlex.quote(os.pathsep.join(map(str, (ROOT / "workflow", ROOT))))

# One thread a process: the bytes then do not depend on the number of cores, and jobs fill the machine.
shell.prefix(  # in which Snakemake replaces {names}
    f"set -euo pipefail; export PYTHONPATH={literal(LIBRARY)} PYTHONHASHSEED=0"
    " OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 HF_HUB_OFFLINE=1;"
)

METHODS = experiment.config["methods"]
SEEDS = experiment.config["seeds"]
PER_TASK_METHODS = [
    m for m in METHODS if not experiment.methods[m].get("static", True) and m not in experiment.references
]
BENCHMARKED = [suite for suite in experiment.suites if experiment.is_benchmarked(suite)]
TRIALS = [name for name, candidate in experiment.candidates.items() if candidate.point is None]
LEARNED = [method for method in METHODS if "learn" in experiment.methods[method]]
JOINT_CALIBRATION = [name for name, record in experiment.calibration.items() if record["kind"] in COLLECTED_TOGETHER]
THRESHOLDS, PROCESSED = map(experiment.needing, (experiment.thresholds, experiment.processed))


wildcard_constraints:
    suite=any_of([*experiment.suites, *experiment.models]),
    model="[A-Za-z0-9][A-Za-z0-9_.-]*",
    task=any_of(experiment.tasks),
    data=any_of(experiment.data(suite) for suite in experiment.suites),
    checkpoints=any_of(experiment.checkpoints(suite) for suite in experiment.suites),
    tower=any_of(filter(None, map(experiment.tower, experiment.suites))),
    asset=any_of(experiment.assets),
    method=any_of([*METHODS, *experiment.candidates, *experiment.nested.rows]),
    nested=f"(/({any_of(experiment.nested.rows)}))?",  # whose experts are measured: those of the suite, or of a nested merge
    seed="[0-9]+",
    thresholds=any_of(THRESHOLDS),
    processed=any_of(PROCESSED),
    group="[a-z][a-z0-9_]*",
    subset="[0-9]+-[0-9]+",
    run="(steps|epochs)-[0-9]+",
    table=any_of({**experiment.reports["tables"], **experiment.reports.get("published", {})}),
    figure=any_of(experiment.reports["figures"]),


onstart:
    checked(check_run, experiment, workflow)
    lift_default_rate(workflow)
