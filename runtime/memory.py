"""Refusing a call that cannot fit in memory before it starts, with the longest duration that can."""

from functools import partial

from runtime.arguments import Options
from runtime.bundle.manifest import EngineSpec, Manifest
from runtime.errors import InputError
from runtime.request import Request

DEFAULT = Options()


def freed_engines(manifest: Manifest, options: Options) -> tuple[str, ...]:
    """The engines that are not kept between stages: all, those of texts, or none."""
    if options.low_memory:
        return tuple(manifest.engines)
    return manifest.kind.text_engines if options.free_text else ()


def check_memory(manifest: Manifest, request: Request, available_bytes: int | None, options: Options = DEFAULT) -> None:
    """Raise InputError if the call needs more memory than is free; nothing is refused where that is not known.

    A feature cache with `low_memory` is refused too: its two engines would be loaded in turns, at every step.

    What activations take is in the manifest, as a polynomial of the latent height that was counted when the bundle was
    built. Of engines that were compiled for a GPU it is not known: what such an engine tells of itself is for the
    largest shape that it was compiled for. They are never refused for their activations; if memory does run out, the
    call ends with an EngineError. Weights count with `low_memory` only: without, they are loaded by now.
    """
    if options.low_memory and request.feature_cache_interval > 1:
        raise InputError("feature_cache_interval above 1 needs two engines in memory at once: leave out low_memory")
    if available_bytes is None:
        return
    height = request.latent_shape[2]
    peak = partial(peak_bytes, manifest, request, low_memory=options.low_memory, vae_slicing=options.vae_slicing)
    needed = peak(height)
    if needed <= available_bytes:
        return
    low, high = 0, height  # the largest height that fits, by bisection
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if peak(middle) <= available_bytes else (low, middle)
    audio = manifest.audio
    seconds = audio.row_samples / audio.sample_rate_hz
    fits = f"about {low * seconds:.1f} s fit" if low else "not even the shortest fits"
    raise InputError(
        f"{request.rows} {'waveform' if request.rows == 1 else 'waveforms'} of {height * seconds:.1f} s "
        f"{'needs' if request.rows == 1 else 'need'} about {needed / 2**30:.1f} GiB, "
        f"{available_bytes / 2**30:.1f} GiB are free: {fits} (or make fewer waveforms at once, or give a window_s)"
    )


def peak_bytes(manifest: Manifest, request: Request, height: int, *, low_memory: bool, vae_slicing: bool) -> float:
    """Bytes that the most demanding engine takes at a latent height: activations, with `low_memory` its weights too."""
    audio = manifest.audio
    at_once = height if request.canvas is None else min(height, request.canvas.window)
    window = -(-audio.longest_vocoder_frames // audio.vae_scale_factor)  # in latent rows, rounded up
    peaks = []
    for name, spec in manifest.engines.items():
        seen = min(height, window) if spec.in_windows else at_once
        row = sum(c * seen**power for power, c in enumerate(spec.activation_bytes or ()))
        weights = sum(file.size_bytes for file in spec.files) if low_memory else 0
        peaks.append(weights + _rows(name, spec, request, vae_slicing=vae_slicing) * row)
    return max(peaks, default=0.0)


def _rows(name: str, spec: EngineSpec, request: Request, *, vae_slicing: bool) -> int:
    """Rows that an engine gets in one run of this call."""
    if spec.rows == "guided":
        views = request.canvas.views if request.canvas is not None and name.startswith("unet") else 1
        return (2 if request.guided else 1) * request.rows * views
    return 1 if spec.rows == "sliceable" and vae_slicing else request.rows
