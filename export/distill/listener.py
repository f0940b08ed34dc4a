"""What latents sound like: decoded and vocoded by a bundle's engines, and heard by its CLAP."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from runtime.backends.graphs import Graphs
from runtime.bundle import Bundle, OpenEngines, open_bundle_device
from runtime.codec import Codec
from runtime.sound.scoring import clap_scores
from runtime.sound.vocode import vocode
from runtime.text.families import open_encoder

Floats = npt.NDArray[np.float32]
ROWS = 8  # sounds at once


class Listener:
    """Scores sounds, or latents that are to become sounds, by how well they fit their prompts."""

    def __init__(self, bundle: Bundle, device: str = "auto") -> None:
        self._audio, self._extractor = bundle.manifest.audio, bundle.manifest.ranking_features
        self._device = open_bundle_device(bundle, device)
        self._engines = OpenEngines(bundle, self._device)
        graphs = Graphs(self._engines, self._device, enabled=False)
        self._codec = Codec(self._engines, self._device, graphs, self._audio)
        self._encoder = open_encoder(bundle, self._engines, self._device, graphs)

    def latents_scores(self, prompts: Sequence[str], latents: Floats) -> Floats:
        """CLAP's score, (rows,), of what each of the clean latents (rows, channels, height, width) becomes."""
        audios = []
        with self._device.active():
            for first in range(0, len(latents), ROWS):
                mel = self._codec.decode(self._device.xp.asarray(latents[first : first + ROWS]), None)
                made = self._device.to_host(vocode(self._engines["vocoder"], mel, self._audio, self._device))
                audios.append(made[:, : mel.shape[1] * self._audio.hop_samples])  # a vocoder may add a few more
        return self.scores(prompts, np.concatenate(audios), self._audio.sample_rate_hz)

    def scores(self, prompts: Sequence[str], audios: Floats, sample_rate_hz: int) -> Floats:
        """CLAP's score, (rows,), of each waveform of (rows, samples) with its prompt, as the pipeline ranks by it."""
        scores = []
        with self._device.active():
            for first in range(0, len(prompts), ROWS):
                some = slice(first, first + ROWS)
                texts = self._device.to_host(self._encoder.text_embeds(list(prompts[some])))
                encoder = self._engines["audio_encoder"]
                scores.append(clap_scores(encoder, texts, audios[some], sample_rate_hz, self._extractor, self._device))
        return np.concatenate(scores)

    def close(self) -> None:
        """Free all engines. A later score loads them again."""
        self._engines.close()
