"""Audio that is given, against loops of diffusers' own parts: the reference pipeline has no such call."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import torch

from export.parity import relative_error
from runtime import AudioLDM2Pipeline
from runtime.diffusion.noise import SeededNoise
from runtime.diffusion.schedulers import scheduler_names
from runtime.sound.mel import log_mels
from tests.parity import scheduler_reference

TOLERANCE = 1e-3  # what the issue of FP32 allows; what is seen is below 1e-5
SEEN = 1e-4
RATE = 16_000


def sound(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """A chord with noise, swelling and fading: what an autoencoder sees has all of its range."""
    t = np.arange(int(seconds * RATE)) / RATE
    tones = sum(np.sin(2 * np.pi * hz * t + rng.uniform(0, 6)) for hz in rng.uniform(80, 6000, 5))
    noise = rng.standard_normal(len(t)) * 10 ** rng.uniform(-4, 0)
    return ((tones + noise) * (0.02 + np.abs(np.sin(rng.uniform(1, 4) * t))) / 8 + 0.01).astype(np.float32)


def reference_mel(audio: np.ndarray) -> torch.Tensor:
    """The original project's log-mel by torch's STFT and librosa's filters: (1, 1, frames, 64)."""
    window = torch.hann_window(1024, periodic=True, dtype=torch.float64)
    wave = torch.from_numpy(audio).double()[None]
    padded = torch.nn.functional.pad(wave, (512, 512), mode="reflect")
    spectrum = torch.stft(padded, 1024, 160, 1024, window, center=False, return_complex=True).abs()
    filters = torch.from_numpy(librosa.filters.mel(sr=RATE, n_fft=1024, n_mels=64, fmin=0, fmax=8000)).double()
    return torch.log(torch.clamp(filters @ spectrum, min=1e-5)).transpose(1, 2)[:, None, :-1].float()


def prepared(audio: np.ndarray, row: int) -> np.ndarray:
    """As the original prepares a wave: without its mean, its peak at 0.5, silence up to whole rows of latents."""
    centred = audio - audio.mean()
    return np.pad(centred / np.abs(centred).max() * 0.5, (0, -len(audio) % row)).astype(np.float32)


class Reference:
    """Image-to-image and inpainting by diffusers' rules, on the parts of its AudioLDM2Pipeline."""

    def __init__(self, pipeline: Any, scheduler: str) -> None:
        self.pipeline, self.name = pipeline, scheduler
        config = {**pipeline.scheduler.config, "_class_name": scheduler}
        self.scheduler = scheduler_reference.build(config)
        self.row = 160 * 2 ** (len(pipeline.vae.config.block_out_channels) - 1)

    @torch.no_grad()
    def latents(self, audio: np.ndarray, generator: torch.Generator | None = None) -> torch.Tensor:
        posterior = self.pipeline.vae.encode(reference_mel(prepared(audio, self.row))).latent_dist
        found = posterior.mode() if generator is None else posterior.sample(generator)
        return found * self.pipeline.vae.config.scaling_factor

    @torch.no_grad()
    def __call__(
        self, prompt: str, audio: np.ndarray, strength: float, steps: int, seed: int, mask: np.ndarray | None = None
    ) -> np.ndarray:
        pipe, scheduler, generator = self.pipeline, self.scheduler, torch.Generator("cpu").manual_seed(seed)
        known = self.latents(audio)
        noise = torch.randn(known.shape, generator=generator)
        scheduler.set_timesteps(steps)
        begin = max(steps - min(int(steps * strength), steps), 0)
        timesteps = scheduler_reference.from_the_middle(scheduler, begin) if begin else scheduler.timesteps
        first = scheduler.add_noise(known, noise, timesteps[:1]) if begin else noise * scheduler.init_noise_sigma
        embeds, masks, generated = pipe.encode_prompt(prompt, "cpu", 1, True)
        kept = None if mask is None else torch.from_numpy(mask)
        sample = first
        names = scheduler.step.__func__.__code__.co_varnames
        for i, t in enumerate(timesteps):
            seen = scheduler.scale_model_input(torch.cat([sample] * 2), t)
            out = pipe.unet(
                seen, t, generated, encoder_hidden_states_1=embeds, encoder_attention_mask_1=masks, return_dict=False
            )[0]
            plain, text = out.chunk(2)
            extra: dict[str, Any] = {"generator": generator} if "generator" in names else {}
            if begin and self.name == "LMSDiscreteScheduler":
                extra["order"] = min(i + 1, 4)
            sample = scheduler.step(plain + 3.5 * (text - plain), t, sample, return_dict=False, **extra)[0]
            if kept is not None:
                last = i == len(timesteps) - 1
                there = known if last else scheduler.add_noise(known, noise, timesteps[i + 1 : i + 2])
                sample = (1 - kept) * there + kept * sample
        mel = pipe.vae.decode(sample / pipe.vae.config.scaling_factor).sample
        return np.asarray(pipe.mel_spectrogram_to_waveform(mel))[:, : len(audio)]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng()


def test_mel_is_the_originals(bundle: Callable[[str], Path], rng: np.random.Generator) -> None:
    audio = AudioLDM2Pipeline.from_pretrained(bundle("plain"))._manifest.audio
    for seconds in (0.64, 3.2, 40.0):
        wave = prepared(sound(rng, seconds), audio.row_samples)
        expected = reference_mel(wave)[0].numpy()
        assert relative_error(log_mels(wave[None], audio), expected) < 1e-6


@pytest.mark.parametrize("name", ["plain", "one_width"])
def test_encoder_is_the_references(
    name: str, bundle: Callable[[str], Path], reference: Callable[[str], Any], rng: np.random.Generator
) -> None:
    pipe, theirs = AudioLDM2Pipeline.from_pretrained(bundle(name)), Reference(reference(name), "DDIMScheduler")
    wave, seed = sound(rng, rng.uniform(0.7, 3.0)), int(rng.integers(2**31))
    for encoding, generator in (("mode", None), ("sample", torch.Generator("cpu").manual_seed(seed))):
        request = pipe.check("rain", audio=wave, sampling_rate=RATE, encoding=encoding)
        ours = pipe._codec.encode(request, SeededNoise([seed]))
        assert relative_error(ours, theirs.latents(wave, generator).numpy()) <= SEEN, encoding


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # NumPy's, of the reference's tensors in NumPy functions
@pytest.mark.parametrize("scheduler", scheduler_names())
def test_start_in_the_middle_is_the_references(
    scheduler: str, bundle: Callable[[str], Path], reference: Callable[[str], Any], rng: np.random.Generator
) -> None:
    pipe, wave, seed = AudioLDM2Pipeline.from_pretrained(bundle("plain")), sound(rng, 0.9), int(rng.integers(2**31))
    steps, strength = int(rng.integers(7, 12)), float(rng.uniform(0.6, 0.95))
    expected = Reference(reference("plain"), scheduler)("rain falls", wave, strength, steps, seed)
    call = {"num_inference_steps": steps, "strength": strength, "scheduler": scheduler, "seed": seed}
    actual = pipe("rain falls", audio=wave, sampling_rate=RATE, **call).audios
    assert np.sqrt((expected**2).mean()) > 1e-2
    error = relative_error(actual, expected)
    print(f"{scheduler} {steps} {strength}: {error:.1e}")
    assert error <= SEEN <= TOLERANCE


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "DPMSolverMultistepScheduler", "HeunDiscreteScheduler"])
@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_inpainting_is_the_references(
    scheduler: str,
    strength: float,
    bundle: Callable[[str], Path],
    reference: Callable[[str], Any],
    rng: np.random.Generator,
) -> None:
    """With a mask that leaves no row alone there is nothing to splice, and the whole waveform can be compared."""
    pipe, wave, seed = AudioLDM2Pipeline.from_pretrained(bundle("plain")), sound(rng, 1.28), int(rng.integers(2**31))
    mask = np.ones((32, 16), np.float32)
    mask[:, rng.permutation(16)[:7]] = 0
    mask[5:9, 3:] = 0.5
    expected = Reference(reference("plain"), scheduler)("rain falls", wave, strength, 8, seed, mask)
    call = {"num_inference_steps": 8, "strength": strength, "scheduler": scheduler, "seed": seed}
    actual = pipe("rain falls", audio=wave, sampling_rate=RATE, inpaint_mask=mask, **call).audios
    expected = expected * np.abs(wave - wave.mean()).max() / 0.5 + wave.mean()  # as loud as the sound that came in
    expected /= max(1.0, float(np.abs(expected).max()))  # and not beyond full scale
    assert relative_error(actual, expected) <= SEEN <= TOLERANCE


def test_full_strength_is_no_audio(bundle: Callable[[str], Path], rng: np.random.Generator) -> None:
    pipe, wave = AudioLDM2Pipeline.from_pretrained(bundle("plain")), sound(rng, 1.28)
    call = {"num_inference_steps": 4, "seed": int(rng.integers(2**31))}
    edited = pipe("rain", audio=wave, sampling_rate=RATE, strength=1, **call).audios
    np.testing.assert_array_equal(edited, pipe("rain", audio_length_in_s=1.28, **call).audios)


def test_no_strength_is_the_round_trip(
    bundle: Callable[[str], Path], reference: Callable[[str], Any], rng: np.random.Generator
) -> None:
    pipe, wave = AudioLDM2Pipeline.from_pretrained(bundle("plain")), sound(rng, 1.3)
    theirs, vae = Reference(reference("plain"), "DDIMScheduler"), reference("plain").vae
    with torch.no_grad():
        mel = vae.decode(theirs.latents(wave) / vae.config.scaling_factor).sample
        expected = np.asarray(reference("plain").mel_spectrogram_to_waveform(mel))[:, : len(wave)]
    actual = pipe("rain", audio=wave, sampling_rate=RATE, strength=0).audios
    assert actual.shape == (1, len(wave))
    assert relative_error(actual, expected) <= SEEN


def test_waveforms_are_variations_and_ranked(bundle: Callable[[str], Path], rng: np.random.Generator) -> None:
    pipe, wave = AudioLDM2Pipeline.from_pretrained(bundle("plain")), sound(rng, 0.9)
    call: dict[str, Any] = {"audio": wave, "sampling_rate": RATE, "strength": 0.5, "num_inference_steps": 6}
    for encoding in ("mode", "sample"):
        made = pipe("rain", num_waveforms_per_prompt=3, seed=[3, 4, 5], encoding=encoding, **call)
        assert made.audios.shape == (3, len(wave))
        assert made.scores is not None
        assert (np.diff(made.scores) <= 0).all()
        for seed, audio in zip(made.seeds, made.audios, strict=True):
            alone = pipe("rain", seed=seed, encoding=encoding, **call).audios[0]
            assert relative_error(audio, alone) < SEEN
