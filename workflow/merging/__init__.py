"""The merging library, in floors; a module imports its own floor or lower ones (held by tests/test_floors.py).

    6  scripts/*                                                     command lines, one a rule
    5  reporting/*   evaluate/<family>   training   classification   alignment   prompts
    4  engine        data/*
    3  recipe        measure
    2  preprocess    coefficients        combine
    1  tensors       checkpoints
    0  provenance    results             assets        progress      no torch: all that a Snakefile imports

Nothing here knows Snakemake, argparse or the layout of the config.
"""
