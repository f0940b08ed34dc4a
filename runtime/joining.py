"""Calls that run as one: which can, how they are put together, and how the result is taken apart."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from itertools import accumulate, chain, pairwise
from typing import TypeVar

from runtime.output import AudioOutput
from runtime.request import Request

T = TypeVar("T")


def batch_key(request: Request) -> Hashable | None:
    """What requests have to agree in to run as one call; None for one that runs alone.

    A request of one prompt as text, whose noise comes from seeds, and which calls nobody back, can be joined.
    Waveforms may be cut to lengths of their own where nothing ranks them.
    """
    alone = (
        request.prompts is None
        or len(request.prompts) > 1
        or request.negative_embeds is not None
        or request.latents is not None
        or request.callback is not None
        or request.audio_callback is not None
        or request.edit is not None
        or request.canvas is not None
        or not request.return_dict
        or not all(isinstance(seed, int) for seed in request.seeds)
    )
    if alone:
        return None
    return (
        request.latent_shape,
        request.samples if request.ranked else None,
        len(request.seeds),
        request.seed_device,
        request.guidance_scale if request.guided else None,
        request.guidance_interval,
        request.feature_cache_interval,
        request.prompt_weights,
        request.max_new_tokens,
        request.plan,
        request.output_type,
    )


def join(requests: Sequence[Request]) -> Request:
    """One request that makes the waveforms of all, in their order. They have one `batch_key`, and it is not None."""
    first = requests[0]
    return replace(
        first,
        prompts=_all(request.prompts for request in requests),
        negative_prompts=_all(request.negative_prompts for request in requests),
        transcriptions=_all(request.transcriptions for request in requests),
        seeds=_all(request.seeds for request in requests) or (),
        samples=max(request.samples for request in requests),
        latent_shape=(sum(request.rows for request in requests), *first.latent_shape[1:]),
    )


def split(output: AudioOutput, requests: Sequence[Request]) -> list[AudioOutput]:
    """What each request would have got alone, out of what their joined call returned. All have the call's timings."""
    parts = []
    for i, (request, (start, stop)) in enumerate(zip(requests, rows_of(requests), strict=True)):
        samples = slice(None) if request.output_type == "latent" else slice(request.samples)
        parts.append(
            replace(
                output,
                audios=output.audios[start:stop, samples],
                seeds=output.seeds[start:stop] if len(request.seeds) > 1 else (output.seeds[i],),
                scores=None if output.scores is None else output.scores[start:stop],
            )
        )
    return parts


def rows_of(requests: Sequence[Request]) -> list[tuple[int, int]]:
    """Of each request its first row in the joined call, and the one after its last."""
    return list(pairwise(accumulate((request.rows for request in requests), initial=0)))


def _all(parts: Iterable[tuple[T, ...] | None]) -> tuple[T, ...] | None:
    """The parts one after the other; None where requests have none."""
    found = [part for part in parts if part is not None]
    return tuple(chain.from_iterable(found)) if found else None
