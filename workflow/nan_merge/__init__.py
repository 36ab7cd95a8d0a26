"""Merge fine-tuned models with norm-aware coefficients (NAN, arXiv 2505.16148) and every method they are compared with.

    standalone                              merge models of your own, in one process
    calibration    reporting                statistics that need data; tables, figures, report
    engine         models                   stream tensors through a method; load, run and train encoders
    catalogue                               every method by name, from config/methods.yaml and config/variants.yaml
    layouts                                 names and shapes of checkpoints
    methods        checkpoints              the merge algebra; weight files
    data           assets                   prepared data sets; pinned downloads
    core                                    errors, atomic files, digests, progress, threads, kernels

A package imports only packages below its own row; its docstring lists them, and tests/unit/test_architecture.py checks the
list. Nothing here knows Snakemake, argparse or the layout of the config.
"""
