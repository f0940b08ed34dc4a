"""What several unit tests share: specs like the published checkpoint's, and a check of one-line errors."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runtime.bundle.families import FAMILIES
from runtime.bundle.manifest import SCHEMA, AudioSpec, CallDefaults, FeatureExtractorSpec

ROOT = Path(__file__).parents[2]

AUDIO = AudioSpec(
    sample_rate_hz=16_000,
    hop_samples=160,
    mel_bins=64,
    latent_channels=8,
    default_latent_height=256,
    vae_scale_factor=4,
    vae_scaling_factor=0.4,
    vocoder_context_frames=23,
    vocoder_window_frames=1024,
)
EXTRACTOR = FeatureExtractorSpec(
    sample_rate_hz=48_000,
    fft_samples=1024,
    hop_samples=480,
    mel_bins=64,
    min_frequency_hz=0,
    max_frequency_hz=14_000,
    max_samples=480_000,
    padding="repeatpad",
)


def make_manifest(audio: AudioSpec = AUDIO, **changes: Any) -> Any:
    """What a request is checked against: the parts of a manifest that are not its engines."""
    fields: dict[str, Any] = {
        "kind": FAMILIES["audioldm2"],
        "audio": audio,
        "speech": None,
        "max_new_tokens": 8,
        "scheduler": {"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear"},
        "engines": {},
        "defaults": CallDefaults(),
    }
    return SimpleNamespace(**{**fields, **changes})


@contextmanager
def raises_line(kind: type[Exception], *fragments: str) -> Iterator[None]:
    """The block raises `kind` with a message of one line that holds every fragment."""
    with pytest.raises(kind) as caught:
        yield
    line = str(caught.value)
    assert len(line.splitlines()) == 1, f"not one line: {line!r}"
    for fragment in fragments:
        assert fragment in line, f"no {fragment!r} in {line!r}"


def manifest(*files: str, schema: int = SCHEMA) -> str:
    """As much of a manifest as every schema of ours has."""
    described = [{"name": name, "size_bytes": 1, "sha256": "0" * 64} for name in files]
    checkpoint = {"id": "demo", "revision": None, "weights_sha256": "0" * 64}
    return json.dumps({"schema": schema, "checkpoint": checkpoint, "engines": {"unet": {"files": described}}})
