"""What a user gives to a call, as it came: nothing here is checked yet."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runtime.backends.device import Array


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The arguments of a call: names, meanings and defaults of diffusers' AudioLDM2Pipeline, and five of ours.

    Ours are `seed`, an integer or one a prompt or waveform, each of which gives what `torch.Generator("cpu")` gives;
    `seed_device`, "cuda" for the normals that torch draws on a GPU (equal to within its fast sines and cosines); and
    `scheduler`, a class name in place of the checkpoint's, with its config, or a whole config with `_class_name`; and
    `guidance_interval`, the shares of the steps from which and up to which there is guidance: (0, 0.5) saves a quarter
    of the work, and is not the same sound (Kynkäänniemi et al. 2024, "Applying guidance in a limited interval"); and
    `feature_cache_interval`: the whole UNet runs at every so many steps, at the others its outermost level, on what was
    kept of the rest: 2 saves a third of the demo's work, and is not the same sound (DeepCache, Ma et al. 2023).
    Arrays may be anything that NumPy takes. Embeddings have the shapes that `encode_prompt` returns, without the
    negative rows: prompt_embeds (prompts, tokens, width), generated_prompt_embeds (prompts, new tokens, width), masks
    (prompts, tokens). `callback(step, timestep, latents)` may raise StopDenoising: the latents so far are then decoded.
    """

    prompt: str | Sequence[str] | None = None
    transcription: str | Sequence[str] | None = None
    audio_length_in_s: float | None = None
    num_inference_steps: int = 200
    guidance_scale: float = 3.5
    negative_prompt: str | Sequence[str] | None = None
    num_waveforms_per_prompt: int = 1
    eta: float = 0.0
    generator: Any = None
    latents: Array | None = None
    prompt_embeds: Array | None = None
    negative_prompt_embeds: Array | None = None
    generated_prompt_embeds: Array | None = None
    negative_generated_prompt_embeds: Array | None = None
    attention_mask: Array | None = None
    negative_attention_mask: Array | None = None
    max_new_tokens: int | None = None
    return_dict: bool = True
    callback: Callable[[int, float, Array], object] | None = None
    callback_steps: int = 1
    cross_attention_kwargs: Mapping[str, Any] | None = None
    output_type: str = "np"
    seed: int | Sequence[int] | None = None
    seed_device: str = "cpu"
    scheduler: str | Mapping[str, Any] | None = None
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    feature_cache_interval: int = 1


class StopDenoising(Exception):  # noqa: N818  not an error: the callback's way to end the loop early
    """Raised by a callback: no further step is made, and the latents so far are decoded."""
