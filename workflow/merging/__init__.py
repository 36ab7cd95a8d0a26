"""The merging library, in floors; a module imports its own floor or lower ones (held by tests/test_floors.py).

    6  scripts/*                                                 command lines, one a rule
    5  reporting/*   evaluate/<family>   evidence/*   training   classification   alignment   prompts   oneshot
    4  engine        data/*              card         mergekit   mergekit_export  hub
    3  recipe        measure             fused        schema
    2  preprocess    coefficients        combine      postprocess   sparsify   geometry
    2  spectral      spectral_rescale    covariance   ace
    2  layouts/*     cells               writer       devices
    1  tensors       matrices            checkpoints  pickles    storage   kernels   workers
    0  provenance    results             assets       progress   no torch

Nothing here knows Snakemake, argparse or the layout of the config.
"""
