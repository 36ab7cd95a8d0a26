"""The merging library, in floors; a module imports its own floor or lower ones (held by tests/test_floors.py).

    6  scripts/*                                                 command lines, one a rule
    5  reporting/*   evaluate/<family>   evidence/*   training   classification   alignment   prompts   oneshot
    5  zero_shot     onednn              conversion
    4  engine        data/*              card         mergekit   mergekit_export  hub
    3  recipe        measure             fused        schema
    2  preprocess    coefficients        combine      postprocess   sparsify   geometry
    2  spectral      spectral_rescale    covariance   ace
    2  layouts/*     cells               writer       devices       waist      clip_folders
    1  tensors       matrices            checkpoints  pickles    storage   kernels   workers
    1  stand_ins   torch_files
    0  assets        repositories        registries   archives   downloads  transfers  patience
    0  provenance    results             progress   disk         no torch

Nothing here knows Snakemake, argparse or the layout of the config.
"""
