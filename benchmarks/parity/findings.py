"""Behaviour of the peers at the edges, where no number can be compared: observed with FusionBench 0.2.33 and mergekit 0.1.5."""

FOUND = {
    "fusion-bench": [
        "`wudi.py`, `wudi_merging`: an expert that leaves a matrix unchanged makes all of it NaN (0 / 0); here it has no loss.",
        "`iso_utils.py`, `iso_c` and `TSVM_utils.py`, `compute_and_sum_svd_mem_reduction`: singular vectors of the null space of"
        " a matrix of less than full rank enter the merge, though they are arbitrary; here they are left out. Two equal"
        " experts, one of them moved by 1e-15 of itself, give TSV-M merges that differ by most of a task vector.",
        "`TSVM_utils.py`, `compute_and_sum_svd_mem_reduction`: a matrix with a side shorter than the number of experts stays at"
        " the base; here it gets the mean.",
        "`iso_utils.py`, `iso_cts`: ends with an error where rounding asks for more task directions than the rank has (5 × 8,"
        " three experts, `common_space_fraction: 0`); here each expert gets fewer.",
        "`ties_merging_utils.py`, `topk_values_mask`: `threshold: 100`, and 1, which counts as 100 %, end with an error"
        " (`kthvalue` of 0); here `density: 1` keeps everything.",
        "`ties_merging_utils.py`, `resolve_zero_signs`: where the elected sum is exactly zero, the majority sign of the model"
        " decides; here it counts as plus, so that a merge needs no pass over the whole model for it.",
        "`regmean.py`, `merging_with_regmean_weights`: a singular sum of Gram matrices ends with an error; here unseen inputs get"
        " the mean.",
        "`knots_utils.py`, `subspace_alignment`: singular values below 1e-4 are left out, whatever the size of the updates: with"
        " task vectors of about 1e-6 all of them; here those that are negligible beside the largest.",
        "`layer_wise_fusion.py`, `LayerWiseMergedModel`: with its own default `strict: true` the first step ends with an error on"
        " encoders that have buffers, such as CLIP; its configuration sets `strict: false`.",
    ],
    "mergekit": [
        "`architecture/auto.py`, `infer_architecture_info`: for image encoders whose tensors are named `vision_model.…`, as in"
        " most folders, every tensor counts as optional, and a folder without any weights is written, without an error. The"
        " image encoders here have the names that transformers 5 writes.",
        "`sparsify.py`, `magnitude_outliers`: `density: 1` keeps the outliers too; a tensor of fewer than 1 / density entries"
        " becomes zero, here one entry stays.",
        "`sparsify.py`, `della_magprune`: rows of one entry and tensors without axes end with an error; here such an entry is"
        " kept with probability `density`.",
        "`karcher.py`, `karcher_merge_tensors`: tensors shorter than 1e-5 do not count; here all but zeros do.",
    ],
}
