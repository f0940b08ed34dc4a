"""What the conditioning makes of the captions, written down once: the UNet then trains without it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from export.demo.training.conditioning import Conditioner, draw_texts
from export.demo.training.data import Dataset

VARIANTS, ROWS = 2, 64  # captions of each clip; at once


@dataclass(frozen=True)
class Embeds:
    """Of `VARIANTS` captions of each clip, and last of the empty one. Row `variant * clips + clip`."""

    new: np.ndarray  # (rows, 8, width) float16: GPT2's
    t5: np.ndarray  # (tokens of all rows, width) float16
    ends: np.ndarray  # (rows + 1,) where each row's tokens begin in `t5`, and the end

    @classmethod
    def open(cls, folder: Path) -> "Embeds":
        """Read what `write_embeds` wrote into `folder`."""
        with np.load(folder / "embeds.npz") as stored:
            return cls(stored["new"], stored["t5"], stored["ends"])

    def draw(
        self, clips: np.ndarray, dropped: np.ndarray, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As `Conditioner`: (rows, 8, width), (rows, tokens, width) and their mask, of one of each clip's captions."""
        empty = len(self.new) - 1
        rows = np.where(dropped, empty, rng.integers(VARIANTS, size=len(clips)) * (empty // VARIANTS) + clips)
        lengths = self.ends[rows + 1] - self.ends[rows]
        mask = np.arange(lengths.max())[None] < lengths[:, None]  # (rows, tokens)
        t5 = self.t5[np.minimum(self.ends[rows][:, None] + np.arange(lengths.max()), len(self.t5) - 1)]
        new, states = (torch.from_numpy(part.astype(np.float32)) for part in (self.new[rows], t5))
        return new, states * torch.from_numpy(mask)[..., None], torch.from_numpy(mask.astype(np.int64))


@torch.no_grad()
def write_embeds(folder: Path, conditioner: Conditioner, seed: int = 3) -> None:
    """Write `embeds.npz` into the folder of the data. Captions of like length go together: none is padded much."""
    data, rng = Dataset.open(folder), np.random.default_rng(seed)
    texts = [text for _ in range(VARIANTS) for text in draw_texts(data, np.arange(len(data.captions)), rng)]
    texts.append("")
    order = np.argsort([len(text) for text in texts], kind="stable")
    new: list[np.ndarray] = [np.empty(0)] * len(texts)
    t5: list[np.ndarray] = [np.empty(0)] * len(texts)
    for start in range(0, len(texts), ROWS):
        rows = order[start : start + ROWS]
        found = conditioner([texts[row] for row in rows], np.zeros(len(rows), bool))
        for row, embed, states, mask in zip(rows, *(part.numpy() for part in found), strict=True):
            new[row], t5[row] = embed.astype(np.float16), states[mask > 0].astype(np.float16)
    ends = np.cumsum([0, *map(len, t5)])
    np.savez(folder / "embeds.npz", new=np.stack(new), t5=np.concatenate(t5), ends=ends)
