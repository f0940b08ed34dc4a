"""What a user gives to a call, as it came: nothing here is checked yet."""

import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from runtime.backends.device import Array
from runtime.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The arguments of a call. Texts and seeds may come in a list, a tuple, another sequence or an array of one axis.

    Arrays may be anything that NumPy makes an array of. Embeddings have the shapes that `encode_prompt` returns,
    without its negative rows.

    Those of diffusers' AudioLDM2Pipeline, with its names, meanings and defaults:

    - `prompt`: what is to be heard, one text or several.
    - `transcription`: what is to be spoken, one text a prompt. For speech checkpoints, which need it; others refuse it.
    - `audio_length_in_s`: duration in seconds. Default: the checkpoint's, 10.24 s for the published ones.
    - `num_inference_steps`: steps from noise to sound. Default 200, 10 for AudioLDM, or those that a distilled
      checkpoint was taught. Fewer are faster and coarser.
    - `guidance_scale`: how strongly the prompt counts against the negative prompt, at most 1000. Default 3.5, 2.5 for
      AudioLDM, 2 for MusicLDM, 1 for a distilled checkpoint. At 1 and below there is no guidance, and each step takes
      half the work.
    - `negative_prompt`: what is not to be heard, one text for one prompt, a list for a list. Default: empty texts.
    - `num_waveforms_per_prompt`: waveforms for each prompt, ranked by CLAP if there are several. Default 1.
    - `eta`: from 0, no fresh noise in DDIM's steps, to 1, DDPM's. Default 0. Other schedulers do not read it.
    - `generator`: a `torch.Generator` or a `runtime.diffusion.noise.TorchGenerator`, or several, in place of `seed`.
    - `latents`: the first noise, standard normals (waveforms, channels, height, width). Default: drawn from the seeds.
    - `prompt_embeds`, `generated_prompt_embeds`: in place of `prompt`, the states of the second text encoder
      (prompts, tokens, width) and of the language model (prompts, new tokens, width). AudioLDM and MusicLDM take
      CLAP's embeddings, (prompts, width), as `prompt_embeds` alone.
    - `negative_prompt_embeds`, `negative_generated_prompt_embeds`: in place of `negative_prompt`, of the same shapes.
    - `attention_mask`, `negative_attention_mask`: (prompts, tokens), 1 for a token and 0 for padding. Default: all 1.
    - `max_new_tokens`: how many states the language model makes. Default: the checkpoint's, 8 for the published ones.
    - `return_dict`: False returns a tuple of the audios alone. Default True.
    - `callback(step, timestep, latents)`: is called during denoising, and may raise StopDenoising to end it early.
    - `callback_steps`: at every so many steps. Default 1.
    - `cross_attention_kwargs`: has no meaning for engines. Anything but None or an empty mapping is refused.
    - `output_type`: "np" for audios in NumPy arrays, "pt" in a torch tensor, "latent" for latents. Default "np".

    Ours:

    - `seed`: an integer from 0 to 2**64 - 1, or one a prompt, or one a waveform, of which each gives what
      `torch.Generator("cpu")` gives with it. Default: drawn at random, and told in the result.
    - `seed_device`: "cuda" for the normals that torch draws on a GPU, equal to within its fast sines and cosines.
      Default "cpu".
    - `scheduler`: the class name of another scheduler, which then takes the checkpoint's config, or a whole config with
      `_class_name`. Default: the checkpoint's.
    - `audio_callback(audios)`: is called with the next samples of all waveforms, (waveforms, samples), as soon as the
      vocoder has made them, in the order of the seeds: the first come before the last are made.
    - `guidance_interval`: the shares of the steps from which and up to which there is guidance. Default (0, 1), all of
      them. (0, 0.5) saves a quarter of the work and changes the sound (Kynkäänniemi et al. 2024, "Applying guidance in
      a limited interval").
    - `feature_cache_interval`: the whole UNet runs at every so many steps. At the others only its outermost level runs,
      on what was kept of the rest. Default 1. 2 saves a third of the demo's work and changes the sound (DeepCache, Ma
      et al. 2023).
    - `window_s`: seconds that the model sees at once. Longer audio is made of windows that overlap by a half, averaged
      at every step (MultiDiffusion, Bar-Tal et al. 2023), in memory that does not grow with its length. Default: all of
      it, but for audio that is given and is longer with what is added to it than the checkpoint's duration.
    - `loop`: whether the end leads into the beginning; the duration is rounded up to whole rows of latents, 0.04 s at
      the published sizes. Default False.
    - `prompt_weights`: whether the prompt has weights: "(word:1.3)" counts 1.3 times, "(word)" 1.1 times, "[word]" 1 /
      1.1 times; a backslash before a bracket means the bracket. They scale the states of the second text encoder
      alone: the language model's, which are of the whole text, know nothing of them. Default False.

    Audio that is given, and what is done to it:

    - `audio`: a file that libsndfile reads (its path or its bytes), or samples (samples,) or (channels, samples) with
      their `sampling_rate` in Hz. The mean of its channels is taken, at the model's rate. The sound has its length.
    - `strength`: from 0, the audio as the autoencoder and the vocoder have it, to 1, nothing of it. As in diffusers'
      image-to-image pipelines it is the share of the steps that are made. Default 0.8; with a range or an extension 1.
    - `inpaint_seconds`: ranges (start, stop) in seconds that are made anew. All else comes back as it was given, sample
      by sample.
    - `inpaint_hz`: the frequencies (low, high) that are made anew, in these ranges or everywhere.
    - `inpaint_mask`: in place of both, 1 for what is made anew and 0 for what is kept, (height, width) of the latents
      or their whole shape.
    - `extend_s`: seconds to add at the end, or two numbers, for the start and the end.
    - `encoding`: "mode" of the encoder's distribution, or a "sample" of it, drawn from the seeds. Default "mode".
    """

    prompt: str | Sequence[str] | None = None
    transcription: str | Sequence[str] | None = None
    audio_length_in_s: float | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
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
    audio_callback: Callable[[Array], object] | None = None
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    feature_cache_interval: int = 1
    window_s: float | None = None
    loop: bool = False
    prompt_weights: bool = False
    audio: Any = None
    sampling_rate: int | None = None
    strength: float | None = None
    inpaint_seconds: Sequence[tuple[float, float]] | None = None
    inpaint_hz: tuple[float, float] | None = None
    inpaint_mask: Array | None = None
    extend_s: float | tuple[float, float] | None = None
    encoding: str = "mode"


class StopDenoising(Exception):  # noqa: N818  not an error: the callback's way to end the loop early
    """Raised by a callback: no further step is made, and the latents so far are decoded."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a pipeline is opened.

    - `device`: cpu, cuda, cuda:N, or auto: a GPU for engines that were compiled for one, else the CPU.
    - `backend`: what runs graphs, onnxruntime or openvino; auto is openvino on a CPU where it is installed.
    - `precision`: openvino's, fp32 or bf16; auto is bf16 where the CPU has it, in the vocoder in part.
    - `threads`: how many an engine on the CPU uses; None: as many as its library takes, but no more than this process
      has cores by its affinity and its container's quota.
    - `low_memory` (the reference's `enable_model_cpu_offload`): each engine is loaded when it is needed and freed
      after, in every call.
    - `free_text`: the text engines alone are, for every prompt that is none of the last 32: less memory while a sound
      is made, and a later start of it. As with `low_memory` there are no CUDA graphs.
    - `vae_slicing` (the reference's `enable_vae_slicing`): waveforms are decoded one by one.
    - `cuda_graphs`: work that comes again is captured, and replayed by one launch; False runs all of it plainly.
    """

    device: str = "auto"
    backend: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    low_memory: bool = False
    free_text: bool = False
    vae_slicing: bool = False
    cuda_graphs: bool = True

    def __post_init__(self) -> None:
        for name in ("device", "backend", "precision"):
            if not isinstance(getattr(self, name), str):
                raise InputError(f"{name} has to be a str, such as 'auto', got {getattr(self, name)!r}")


def arguments_of(given: Mapping[str, Any]) -> Arguments:
    """The arguments of a call. Raises InputError for a name that there is not, with the nearest that there is."""
    return _named(Arguments, "argument", "a call", given)


def options_of(given: Mapping[str, Any]) -> Options:
    """The options of a pipeline. Raises InputError for a name that there is not, with the nearest that there is."""
    return _named(Options, "option", "a pipeline", given)


def _named(kind: type[T], word: str, owner: str, given: Mapping[str, Any]) -> T:
    known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for name in [name for name in given if name not in known]:
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{nearest[0]}'?" if nearest else f"{owner} takes {', '.join(known)}"
        raise InputError(f"unknown {word} '{name}': {hint}")
    return kind(**given)
