"""Compare the config.json of an expert with the base's: the same weights can be another network."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from nan_merge.checkpoints.checkpoint import Checkpoint
from nan_merge.core.errors import UserError
from nan_merge.layouts.names import config, join_first, nested_text
from nan_merge.layouts.vision_language import tower

STRUCTURE = {  # keys that say how weights are cut and connected: experts that differ are refused
    *("num_attention_heads", "num_heads", "n_head", "n_heads", "encoder_attention_heads", "decoder_attention_heads"),
    *("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num", "multi_query", "head_dim", "d_kv"),
    *("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "kv_lora_rank", "attention_head_dim"),
    *("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers", "depth"),
    *("position_embedding_type", "alibi", "is_encoder_decoder", "parallel_attn", "use_parallel_residual"),
    *("new_decoder_architecture", "do_layer_norm_before", "apply_residual_connection_post_layernorm", "norm_type"),
    *("rotary_dim", "rotary_pct", "partial_rotary_factor", "no_rope_layers", "patch_size", "temporal_patch_size"),
    *("spatial_merge_size", "state_size", "mamba_n_heads", "mamba_d_head", "n_groups", "num_groups"),
    *("num_experts", "num_local_experts", "n_routed_experts", "decoder_sparse_step", "mlp_only_layers"),
}
NUMBERS = {  # keys that change what the same weights compute: experts that differ are noted
    *("hidden_act", "hidden_activation", "activation_function", "activation", "feed_forward_proj", "dense_act_fn"),
    *("layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon", "rms_norm_eps", "norm_eps", "norm_epsilon"),
    *("rope_theta", "rotary_emb_base", "rope_local_base_freq", "rope_scaling", "sliding_window", "attention_window"),
    *("window_size", "layer_types", "sliding_window_pattern", "fullatt_block_indexes", "max_window_layers"),
    *("attention_chunk_size", "attention_multiplier", "residual_multiplier", "embedding_multiplier", "logits_scaling"),
    *("logit_scale", "query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping", "scale_attn_weights"),
    *("scale_attn_by_inverse_layer_idx", "scale_embedding", "scale_depth", "scale_emb", "dim_model_base", "clip_qkv"),
    *("num_experts_per_tok", "norm_topk_prob", "routed_scaling_factor", "topk_method", "scoring_func", "is_decoder"),
    *("relative_attention_num_buckets", "relative_attention_max_distance", "use_qk_norm", "softmax_scale"),
    *("projector_hidden_act", "vision_feature_layer", "vision_feature_select_strategy"),
}
DEFAULTS: Mapping[str, Any] = {"rope_theta": 10000.0, "rope_scaling": None, "sliding_window": None}  # where the key is absent

OUTER = re.compile(r"^(?:(?:thinker|model)\.)*\w+")  # the module of a tower


def check_network(
    expert: str, model: Checkpoint, base: Checkpoint, notes: list[str], exclude: Sequence[re.Pattern[str]] = ()
) -> None:
    """Compare the networks that two config.json describe, and note keys that change what the weights compute.

    A plain language model is compared with the language model of a model for images too, and so is a model for images whose
    tower is excluded from the merge. Keys that only one of both has are not compared, unless their default is known.
    Raises UserError for keys that cut or connect the weights otherwise.
    """
    here, there = _parts(config(model)), _parts(config(base))
    sees = tower(base.names)
    left = bool(sees) and all(any(pattern.search(name) for pattern in exclude) for name in sees)
    cut: list[str] = []
    other: list[str] = []
    for part in sorted(here.keys() & there.keys() & ({""} if left else here.keys())):
        for key in sorted((STRUCTURE | NUMBERS) & (here[part].keys() | there[part].keys())):
            if key in DEFAULTS or (key in here[part] and key in there[part]):
                found, expected = (record.get(key, DEFAULTS.get(key)) for record in (here[part], there[part]))
                if found != expected:
                    (cut if key in STRUCTURE else other).append(f"`{part}{key}` is {found}, the base's {expected}")
    if cut:
        only_tower = sees and all(each.startswith("`vision_config.") for each in cut)
        keep = f"; `merge: exclude: ['^{OUTER.findall(sees[0])[0]}\\b']` leaves the tower at the base" if only_tower else ""
        raise UserError(
            f"expert '{expert}' ({model.folder}) is another network than the base {base.folder} by its config.json:"
            f" {join_first(cut)}. Weights of different networks cannot be averaged; use an expert that was fine-tuned from this"
            f" base, or correct config.json if it is wrong{keep}"
        )
    if other:
        notes.append(
            f"expert '{expert}': its weights were trained for another config.json: {join_first(other)}; the merged model has"
            " the base's"
        )


def _parts(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the language model ("") and other nested models of a config.json by prefix, in one spelling; {} if it is empty."""
    nested = {f"{key}.": value for key, value in record.items() if key.endswith("_config") and isinstance(value, Mapping)}
    where, text = nested_text(record)
    nested.pop(f"{where}.", None)
    parts = {"": {**text, **{key: value for key, value in record.items() if value is not None or key not in text}}, **nested}
    return {part: _unified(each) for part, each in parts.items()} if record else {}


def _unified(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record in one spelling of rotary settings and windows, which versions of transformers store differently."""
    new = {key: value for key, value in record.items() if value is not None or key in NUMBERS}  # null switches those off
    rotary = next((dict(new[key]) for key in ("rope_parameters", "rope_scaling") if isinstance(new.get(key), Mapping)), {})
    if isinstance(local := rotary.get("sliding_attention"), Mapping) and isinstance(rotary.get("full_attention"), Mapping):
        new["rope_local_base_freq"], rotary = local.get("rope_theta"), dict(rotary["full_attention"])
    kind = rotary.pop("type", None)
    kind = rotary.pop("rope_type", kind)
    for key in ("rope_theta", "partial_rotary_factor"):
        if key in rotary:
            new[key] = rotary.pop(key)
    scaling = {**({} if kind in (None, "default", "mrope") else {"rope_type": kind}), **rotary}
    new["rope_scaling"] = scaling or None
    if new.get("use_sliding_window") is False:
        new["sliding_window"] = None
    return new
