"""The log-mel spectrogram between VAE and vocoder: AudioLDM's, 64 bins at 16 kHz, 100 frames a second."""

from functools import cache

import torch

from runtime.sound.mel import mel_filters

SAMPLE_RATE_HZ, FFT_SAMPLES, HOP_SAMPLES, MEL_BINS = 16_000, 1024, 160, 64
QUIETEST = 1e-5  # magnitudes below are silence


def log_mel(audio: torch.Tensor) -> torch.Tensor:
    """Natural logarithm of the mel magnitudes of (rows, samples): (rows, samples // 160, 64)."""
    return (magnitudes(audio, FFT_SAMPLES, HOP_SAMPLES) @ filters().to(audio.device)).clamp(min=QUIETEST).log()


def magnitudes(audio: torch.Tensor, window: int, hop: int) -> torch.Tensor:
    """Of the short-time Fourier transform of (rows, samples): (rows, samples // hop, window // 2 + 1)."""
    shape = torch.hann_window(window, device=audio.device)
    spectrum = torch.stft(audio, window, hop, window=shape, center=True, pad_mode="reflect", return_complex=True)
    power = torch.view_as_real(spectrum).square().sum(-1)
    return (power + 1e-12).sqrt().mT[:, : audio.shape[-1] // hop]


@cache
def filters() -> torch.Tensor:
    """Of Slaney's mel scale, (fft bins, mel bins)."""
    found = mel_filters(SAMPLE_RATE_HZ, FFT_SAMPLES, MEL_BINS, 0.0, SAMPLE_RATE_HZ / 2)
    return torch.from_numpy(found.astype("float32"))
