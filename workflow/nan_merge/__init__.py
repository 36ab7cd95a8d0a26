"""Merge fine-tuned models with norm-aware coefficients (NAN, arXiv 2505.16148) and every method they are compared with.

    cli                                     the command `nan-merge`
    export                                  scores in the formats of others
    standalone     archive                  merge models of your own, in one process; a run as a file for others
    calibration    reporting    selection   statistics that need data; tables, figures, report; choices on validation
    engine         models                   stream tensors through a method; load, run and train encoders
    catalogue                               every method by name, from config/methods.yaml and config/variants.yaml
    layouts                                 names and shapes of checkpoints
    methods        checkpoints              the merge algebra; weight files
    data           assets                   prepared data sets; pinned downloads
    core                                    errors, atomic files, digests, progress, threads, kernels

A package imports only packages below its own row; its docstring lists them, and tests/unit/test_architecture.py checks the
list. Nothing here knows Snakemake or the layout of the config, and only `cli` knows argparse.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nan_merge.core.errors import UserError
    from nan_merge.standalone.extract_adapter import extract_adapter
    from nan_merge.standalone.merge_models import merge
    from nan_merge.standalone.state_dicts import merge_state_dicts

__all__ = ["UserError", "extract_adapter", "merge", "merge_state_dicts"]
_MODULES = {
    "UserError": "core.errors",
    "extract_adapter": "standalone.extract_adapter",
    "merge": "standalone.merge_models",
    "merge_state_dicts": "standalone.state_dicts",
}


def __getattr__(name: str) -> Any:
    """Import the Python API at its first use, so that the command and the workflow start without it."""
    if name not in _MODULES:
        raise AttributeError(f"module 'nan_merge' has no attribute {name!r}; its API is {', '.join(__all__)}")
    return getattr(importlib.import_module(f"nan_merge.{_MODULES[name]}"), name)
