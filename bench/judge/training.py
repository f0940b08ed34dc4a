"""Training of the judge, on rendered clips that are disturbed as a vocoder or a codec may disturb them."""

import time
from collections.abc import Iterator

import numpy as np
import torch
from torch.nn import functional

from bench.judge import Judge
from bench.judge.network import Network
from export.demo.sounds import CLASSES, Split, draw, generator
from export.demo.training.mel import QUIETEST, log_mel

SPLIT: Split = "train"  # the only one that training draws from
SECONDS = {2.56: 0.8, 2.0: 0.1, 5.12: 0.1}  # length of a clip: its share
BATCH, PEAK_RATE = 64, 4e-3
SILENCE = float(np.log(QUIETEST))

Clips = tuple[torch.Tensor, torch.Tensor]  # log-mel (clips, frames, 64) in FP16, class (clips,)


def train(clips_per_class: int, seed: int, minutes: float) -> tuple[Judge, int]:
    """Train a judge on `clips_per_class` clips of each class. Returns it, and the number of steps that were made.

    It trains for so many minutes; drawing the clips comes on top. Since time ends the training, another machine makes
    another judge from the same seed.
    """
    torch.manual_seed(seed)
    sets = [
        drawn(max(1, round(share * clips_per_class)), len(SECONDS) * seed + number, seconds)
        for number, (seconds, share) in enumerate(SECONDS.items())
    ]
    network = Network(len(CLASSES))
    steps = _fit(network, sets, torch.Generator().manual_seed(seed), minutes)
    return Judge(network, CLASSES), steps


def drawn(per_class: int, seed: int, seconds: float) -> Clips:
    """Draw `per_class` clips of every class from the training split: their log-mels and their classes."""
    mels, labels = [], []
    for label, name in enumerate(CLASSES):
        rng = generator(name, seed)
        audios = np.stack([draw(name, rng, SPLIT, seconds).audio for _ in range(per_class)])
        mels.append(log_mel(torch.from_numpy(audios)).half())
        labels.append(torch.full((per_class,), label))
    return torch.cat(mels), torch.cat(labels)


def _fit(network: Network, sets: list[Clips], generator: torch.Generator, minutes: float) -> int:
    """AdamW, its rate rising for a tenth of the time and then falling to 0 as a cosine."""
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
    network.train()
    start, steps = time.monotonic(), 0
    while True:
        for mel, labels in _batches(sets, generator):
            progress = (time.monotonic() - start) / (60 * minutes)
            if progress >= 1 and steps:
                return steps
            rate = min(progress / 0.1, 0.5 + 0.5 * np.cos(np.pi * min(1, max(0, progress - 0.1) / 0.9)))
            optimiser.param_groups[0]["lr"] = PEAK_RATE * rate + 1e-6
            loss = functional.cross_entropy(network(disturbed(mel, generator)), labels, label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if steps % 200 == 0:
                print(f"step {steps}, {progress:.0%} of the time, loss {loss.item():.3f}", flush=True)
            steps += 1


def _batches(sets: list[Clips], generator: torch.Generator) -> Iterator[Clips]:
    """All clips once, in another order each time; those of a batch have one length."""
    picks = []
    for number, (_, labels) in enumerate(sets):
        order = torch.randperm(len(labels), generator=generator)
        picks += [(number, part) for part in order.split(BATCH) if len(part) > 1]
    for place in torch.randperm(len(picks), generator=generator).tolist():
        number, part = picks[place]
        mels, labels = sets[number]
        yield mels[part].float(), labels[part]


def disturbed(mel: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Disturb log-mels of (rows, frames, 64) at random: level, place in time, noise, smearing, colour, unevenness."""
    rows, frames, bins = mel.shape

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.rand((rows, *(shape or (1, 1))), generator=generator) * (high - low) + low

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    mel = torch.stack([_shifted(row, int(by)) for row, by in zip(mel, uniform(-25, 25, 1), strict=True)])
    mel = mel + uniform(-2, 2)
    loudest = mel.amax(dim=(1, 2), keepdim=True)
    tilt = uniform(-1, 1) * torch.linspace(-1, 1, bins)
    noise = loudest + uniform(-11, -3.5) + tilt + 0.5 * normal(rows, frames, bins)
    mel = torch.logaddexp(mel, noise)
    mel = _smeared(mel, uniform(0, 1.2, 2), dim=1)
    mel = _smeared(mel, uniform(0, 0.8, 2), dim=2)
    knee = uniform(0.5, 1.2)
    mel = mel - uniform(0, 8) * (torch.linspace(0, 1, bins) - knee).clamp(min=0)  # a soft low-pass
    colour = functional.interpolate(normal(rows, 1, 6), size=bins, mode="linear", align_corners=True)
    mel = mel + uniform(0, 0.4) * colour + uniform(0, 0.35) * normal(rows, frames, bins)
    return mel.clamp(min=SILENCE)


def _shifted(row: torch.Tensor, by: int) -> torch.Tensor:
    """(frames, 64) later by so many frames, or earlier; silence follows."""
    moved = torch.full_like(row, SILENCE)
    frames = len(row)
    moved[max(by, 0) : frames + min(by, 0)] = row[max(-by, 0) : frames - max(by, 0)]
    return moved


def _smeared(mel: torch.Tensor, widths: torch.Tensor, dim: int) -> torch.Tensor:
    """Each row mixed with its two neighbours along `dim`; widths (rows, 2) weigh the one before and the one after."""
    before, after = widths[:, :1, None], widths[:, 1:, None]
    edges = functional.pad(mel, (0, 0, 1, 1) if dim == 1 else (1, 1), mode="replicate")
    size = mel.shape[dim]
    return (mel + before * edges.narrow(dim, 0, size) + after * edges.narrow(dim, 2, size)) / (1 + before + after)
