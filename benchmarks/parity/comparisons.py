"""The comparisons: every method of a peer with its counterpart here."""

from benchmarks.parity.of_fusionbench import FUSIONBENCH
from benchmarks.parity.of_mergekit import MERGEKIT

COMPARISONS = [*FUSIONBENCH, *MERGEKIT]
