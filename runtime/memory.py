"""Refusing a call that cannot fit in memory before it starts, with the longest duration that can."""

from functools import partial

from runtime.bundle.manifest import Manifest
from runtime.errors import InputError
from runtime.request import Request
from runtime.sound.vocode import WINDOW_FRAMES


def check_memory(
    manifest: Manifest,
    request: Request,
    available_bytes: int | None,
    *,
    low_memory: bool = False,
    vae_slicing: bool = False,
) -> None:
    """Raise InputError if the call needs more memory than is free; nothing is refused where that is not known.

    So it does for a feature cache with `low_memory`: its two engines would be loaded in turns, at every step.

    Activations come from the manifest: measured when the bundle was built, as a polynomial of the latent height.
    Weights count with `low_memory` only: without, they are loaded by now.
    """
    if low_memory and request.feature_cache_interval > 1:
        raise InputError("feature_cache_interval above 1 needs two engines in memory at once: leave out low_memory")
    if available_bytes is None:
        return
    height = request.latent_shape[2]
    peak = partial(peak_bytes, manifest, request, low_memory=low_memory, vae_slicing=vae_slicing)
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
        f"{available_bytes / 2**30:.1f} GiB are free: {fits} (or make fewer waveforms at once)"
    )


def peak_bytes(manifest: Manifest, request: Request, height: int, *, low_memory: bool, vae_slicing: bool) -> float:
    """What the most demanding engine takes at a latent height: activations, with `low_memory` its weights too."""
    audio = manifest.audio
    window = -(-(WINDOW_FRAMES + 2 * audio.vocoder_context_frames) // audio.vae_scale_factor)
    heights = {"vocoder": min(height, window)}
    denoised = request.rows * (2 if request.guided else 1)
    rows = {
        "unet": denoised,
        "unet_shallow": denoised,
        "vae_decoder": 1 if vae_slicing else request.rows,
    }
    peaks = []
    for name, spec in manifest.engines.items():
        row = sum(c * heights.get(name, height) ** power for power, c in enumerate(spec.activation_bytes))
        weights = sum(file.size_bytes for file in spec.files) if low_memory else 0
        peaks.append(weights + rows.get(name, request.rows) * row)
    return max(peaks, default=0.0)
