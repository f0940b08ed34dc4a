"""Attention as the graphs have it: MatMul, Softmax, MatMul, with the heads' number and width as constants."""

from typing import Any

import torch


class PlainAttention:
    """Attention processor for diffusers' modules, for evaluation in the module's own precision.

    The library's processors trace badly: one adds a zero matrix of the scores' size, the other computes its scale from
    shapes at every call.

    Scores of self-attention grow with the square of the length, so they are never all in memory: heads are taken one
    after the other, and so are `query_parts` equal parts of the queries, whose number must be a multiple of it. The
    result is the same. `split_heads` False keeps the heads together, for compilers that fuse a whole attention.
    """

    def __init__(self, query_parts: int = 1, *, split_heads: bool = True) -> None:
        self._parts, self._split_heads = query_parts, split_heads

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
        query, key, value = (
            self._heads(attn, project(source))
            for project, source in ((attn.to_q, hidden_states), (attn.to_k, states), (attn.to_v, states))
        )
        query, key = query * attn.scale, key.transpose(-1, -2)
        if encoder_hidden_states is None and self._split_heads:
            heads = zip(*(tensor.split(1, dim=1) for tensor in (query, key, value)), strict=True)
            mixed = torch.cat([self._in_parts(q, k, v, attention_mask) for q, k, v in heads], dim=1)
        else:
            mixed = self._mix(query, key, value, attention_mask)
        output = attn.to_out[0](mixed.transpose(1, 2).flatten(2))
        if residual.ndim == 4:
            output = output.transpose(1, 2).view_as(residual)
        if attn.residual_connection:
            output = output + residual
        return output / attn.rescale_output_factor if attn.rescale_output_factor != 1 else output

    def _in_parts(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        if self._parts == 1:
            return self._mix(query, key, value, bias)
        parts = query.unflatten(2, (-1, self._parts)).unbind(3)  # each (batch, 1, tokens / parts, width)
        return torch.stack([self._mix(part, key, value, bias) for part in parts], dim=3).flatten(2, 3)

    @staticmethod
    def _mix(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Values by the softmax of (batch, heads, queries, keys) scores; `key` has its last axes swapped."""
        scores = query @ key
        if bias is not None:
            scores = scores + bias[:, None]
        return scores.softmax(dim=-1) @ value

    @staticmethod
    def _heads(attn: Any, projected: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, heads * width) to (batch, heads, tokens, width)."""
        width = attn.to_q.out_features // attn.heads
        return projected.view(projected.shape[0], -1, attn.heads, width).transpose(1, 2)
