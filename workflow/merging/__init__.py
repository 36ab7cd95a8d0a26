"""The merging library, in floors; a module imports its own floor or lower ones (held by tests/test_floors.py).

    6  scripts/*                                                     command lines, one a rule
    5  reporting/*   evaluate/<family>   training   classification   alignment   prompts   oneshot
    4  engine        data/*              card       mergekit         hub        mergekit_export
    3  recipe        measure             fused
    2  preprocess    coefficients        combine    layouts/*        cells      writer    devices
    1  tensors       checkpoints         pickles    storage          kernels    workers
    0  provenance    results             assets     progress         no torch: all that a Snakefile imports

Nothing here knows Snakemake, argparse or the layout of the config.
"""
