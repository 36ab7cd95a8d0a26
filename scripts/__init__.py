"""Thin command lines, one a rule and those for people; run as `python -m scripts.<name>` from the checkout."""

import gc
import sys
from pathlib import Path

if sys.argv[0] == "-m":  # this is the program: `command_line` switches collection on when all is imported
    gc.disable()

WORKFLOW = str(Path(__file__).resolve().parents[1] / "workflow")
if WORKFLOW not in sys.path:  # the library lies there; rules have it on the path already
    sys.path.insert(0, WORKFLOW)
