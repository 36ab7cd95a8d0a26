"""Random draws that all programs share: those of this project with the key 0.

Imported here and by the Python of the peers' environments: torch only.
"""

import math

import torch

GAMMA, MIX_1, MIX_2 = (x - (1 << 64) for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def uniform(shape):
    """Draw one number of [0, 1) for every element of a tensor, in float64: the upper 24 bits of SplitMix64 from 0 on."""
    z = torch.arange(math.prod(shape)) * GAMMA
    z = (z ^ shifted(z, 30)) * MIX_1
    z = (z ^ shifted(z, 27)) * MIX_2
    return (shifted(z ^ shifted(z, 31), 40) / (1 << 24)).double().reshape(shape)


def shifted(z, bits):
    """Shift int64 to the right as unsigned."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
