"""Attention as the graphs have it: of standard operators, or as the one operator that fuses it."""

from typing import Any

import torch


class PlainAttention:
    """Attention processor for diffusers' modules, in their own precision: products and a softmax.

    The library's processors trace badly: one adds a zero matrix of the scores' size, the other computes its scale from
    shapes at every call. The number of heads and their width are constants here.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,  # noqa: ARG002  diffusers warns of processors that do not take it
        **_: Any,
    ) -> torch.Tensor:
        """Attend; `hidden_states` (batch, tokens, width) or an image, `attention_mask` (batch, 1, keys) is additive."""
        residual = hidden_states
        if residual.ndim == 4:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)  # (batch, tokens, width)
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        states = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        mixed = self._mix(attn, attn.to_q(hidden_states), attn.to_k(states), attn.to_v(states), attention_mask)
        output = attn.to_out[0](mixed)
        if residual.ndim == 4:
            output = output.transpose(1, 2).view_as(residual)
        if attn.residual_connection:
            output = output + residual
        return output / attn.rescale_output_factor if attn.rescale_output_factor != 1 else output

    def _mix(
        self, attn: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """Values by the softmax of (batch, heads, queries, keys) scores; all (batch, tokens, heads * width)."""
        query, key, value = (_heads(tensor, attn.heads) for tensor in (query, key, value))
        scores = (query * attn.scale) @ key.transpose(-1, -2)
        if bias is not None:
            scores = scores + bias[:, None]
        return (scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)


class FusedAttention(PlainAttention):
    """The same, with each self-attention as one MultiHeadAttention node, which never holds all scores in memory.

    ONNX Runtime has that operator in its own domain, com.microsoft, and OpenVINO reads it; the standard's Attention, of
    opset 23, is fused in neither. Attention to texts stays plain: it has a mask and few keys.
    """

    def _mix(
        self, attn: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        if bias is not None or query.shape[1] != key.shape[1]:
            return super()._mix(attn, query, key, value, bias)
        mixed: torch.Tensor = _MultiHeadAttention.apply(query, key, value, attn.heads, attn.scale)
        return mixed


class _MultiHeadAttention(torch.autograd.Function):
    """All (batch, tokens, heads * width)."""

    @staticmethod
    def forward(
        _: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, heads: int, scale: float
    ) -> torch.Tensor:
        if query.is_meta:  # counting memory: the operator works in blocks
            return torch.empty_like(query)
        query, key, value = (_heads(tensor, heads) for tensor in (query, key, value))
        mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=scale)
        return mixed.transpose(1, 2).flatten(2)

    @staticmethod
    def symbolic(graph: Any, query: Any, key: Any, value: Any, heads: int, scale: float) -> Any:
        mixed = graph.op("com.microsoft::MultiHeadAttention", query, key, value, num_heads_i=heads, scale_f=scale)
        mixed.setType(query.type())
        return mixed


def _heads(projected: torch.Tensor, heads: int) -> torch.Tensor:
    """(batch, tokens, heads * width) to (batch, heads, tokens, width)."""
    return projected.view(projected.shape[0], -1, heads, projected.shape[2] // heads).transpose(1, 2)
