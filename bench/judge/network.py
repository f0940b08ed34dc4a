"""The judge's network: it tells the class of a log-mel spectrogram, whatever the level and the length are."""

import torch
from torch import nn

RANGE_NATS = 8.0  # what is further below a clip's loudest point is not heard: 69 dB
FEATURES = 64


def levelled(mel: torch.Tensor) -> torch.Tensor:
    """Scale log-mels of (rows, frames, 64): each row's loudest point to 1, all that is `RANGE_NATS` below it to -1."""
    loudest = mel.amax(dim=(1, 2), keepdim=True)
    return (mel - loudest).clamp(min=-RANGE_NATS) * (2 / RANGE_NATS) + 1


class Network(nn.Module):
    """Convolutions over time and frequency, then over time alone, then a mean and a maximum over time."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.spectral = nn.Sequential(
            *_block(nn.Conv2d(1, 12, 3, stride=2, padding=1)),
            *_block(nn.Conv2d(12, 24, 3, stride=2, padding=1)),
            *_block(nn.Conv2d(24, 64, 3, stride=2, padding=1)),
            *_block(nn.Conv2d(64, 96, 3, stride=(1, 2), padding=1)),
            *_block(nn.Conv2d(96, 128, (1, 4))),  # 64 mel bins are 4 here: all of them at once
        )
        self.temporal = nn.Sequential(*_block(nn.Conv2d(128, 128, (3, 1), padding=(1, 0))))
        self.embed = nn.Linear(2 * 128, FEATURES)
        self.classify = nn.Linear(FEATURES, classes)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a quarter faster on a CPU

    def features(self, mel: torch.Tensor) -> torch.Tensor:
        """Features, (rows, FEATURES), of log-mels of (rows, frames, 64)."""
        heard = self.spectral(levelled(mel)[:, None])  # (rows, 128, frames / 8, 1)
        heard = self.temporal(heard).squeeze(3)
        return self.embed(torch.cat([heard.mean(dim=2), heard.amax(dim=2)], dim=1))

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        """Logits, (rows, classes), of log-mels of (rows, frames, 64)."""
        return self.classify(torch.relu(self.features(mel)))


def _block(convolution: nn.Conv2d) -> tuple[nn.Module, ...]:
    return convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU()
