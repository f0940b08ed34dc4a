"""Between sound and latents: the autoencoder and the vocoder, and audio on its way in."""

import numpy as np

from runtime.backends.device import Array, Device
from runtime.backends.graphs import Graphs
from runtime.backends.joined import joined
from runtime.bundle import OpenEngines
from runtime.bundle.manifest import AudioSpec
from runtime.diffusion.canvas import Canvas
from runtime.diffusion.noise import SeededNoise
from runtime.request import Request
from runtime.sizes import OVERLAP
from runtime.sound.mel import log_mels
from runtime.sound.vocode import vocode, vocode_aloud

AROUND_ROWS = 16  # of a ring, which the decoder sees beyond either end: 0.64 s of sound at the published sizes


class Codec:
    """Turns sound into latents and latents into sound, with the engines of one bundle."""

    def __init__(
        self, engines: OpenEngines, device: Device, graphs: Graphs, audio: AudioSpec, *, slicing: bool = False
    ) -> None:
        self._engines, self._device, self._graphs = engines, device, graphs
        self._audio, self._slicing = audio, slicing

    def encode(self, request: Request, noise: SeededNoise) -> Array | None:
        """Latents of the audio that is given, scaled, (1 or rows, channels, height, width), zeros beside it; None if
        nothing of it is left.
        """
        if (edit := request.encoded) is None:
            return None
        audio = self._audio
        mel = log_mels(edit.waveform(audio.row_samples)[None], audio, self._device.xp)
        latents, spread = self._posterior(mel, request.canvas)
        if edit.sampled:
            drawn = noise.randn((noise.sources, *latents.shape[1:]))
            latents = np.repeat(latents + spread * drawn, request.rows // noise.sources, axis=0)
        row, (start, stop) = audio.row_samples, edit.canvas
        before = (edit.encoded[0] - start) // row
        after = (stop - start) // row - before - latents.shape[2]
        scaled = latents * np.float32(audio.vae_scaling_factor)
        return np.pad(scaled, [(0, 0), (0, 0), (before, after), (0, 0)])

    def _posterior(self, mel: Array, canvas: Canvas | None) -> tuple[Array, Array]:
        """Mean and deviation of the latents of mel (1, frames, mel bins), each (1, channels, height, width)."""
        xp, scale, bins = self._device.xp, self._audio.vae_scale_factor, mel.shape[2]
        encoder = self._graphs.engine("vae_encoder")
        height = mel.shape[1] // scale
        window = height if canvas is None else min(canvas.window, height)

        def run(_: int, rows: Array) -> Array:
            outputs = encoder({"mel": rows.reshape(1, -1, bins)})
            both = np.concatenate([outputs["mean"], xp.exp(0.5 * outputs["log_variance"])], axis=1)
            return self._device.watch("vae_encoder", both)

        line = Canvas(height, window, window // OVERLAP)
        mean, spread = np.split(line.over(mel.reshape(1, height, scale * bins), run, xp, axes=(1, 2)), 2, axis=1)
        return mean, spread

    def decode(self, latents: Array, canvas: Canvas | None) -> Array:
        """Mel (rows, frames, mel bins) of latents (rows, channels, height, width); of a ring with a turn's ends."""
        if canvas is None:
            return self._decoded(latents)
        xp, around = self._device.xp, min(AROUND_ROWS, canvas.height) if canvas.loop else 0
        ring = np.arange(-around, canvas.height + around) % canvas.height
        latents = xp.take(latents, xp.asarray(ring), axis=2)
        window = len(ring) if canvas.window == canvas.height else canvas.window
        line = Canvas(len(ring), window, canvas.overlap)
        scale = self._audio.vae_scale_factor
        mel = line.over(latents, lambda _, rows: self._decoded(rows), xp, axes=(2, 1), scale=scale)
        return mel[:, around * scale : mel.shape[1] - around * scale]

    def waveforms(self, mel: Array, request: Request) -> Array:
        """Waveforms (rows, samples) of mel (rows, frames, mel bins); `audio_callback` hears each part as it is made."""
        audio = self._audio
        if request.canvas is not None and request.canvas.loop:
            context = min(audio.vocoder_context_frames, mel.shape[1])
            ring = np.concatenate([mel[:, mel.shape[1] - context :], mel, mel[:, :context]], axis=1)
            around = self._vocoded(ring)[:, context * audio.hop_samples :]
            return around[:, : mel.shape[1] * audio.hop_samples]
        if request.audio_callback is not None:
            vocoder = self._engines["vocoder"]
            return vocode_aloud(vocoder, mel, audio, self._device, request.samples, request.audio_callback)
        return self._vocoded(mel)

    def _decoded(self, latents: Array) -> Array:
        return self._graphs.run("decode", "vae_decoder", lambda latents: (self._mel(latents),), latents)[0]

    def _vocoded(self, mel: Array) -> Array:
        vocoder, audio, device = self._engines["vocoder"], self._audio, self._device
        return self._graphs.run("vocode", "vocoder", lambda mel: (vocode(vocoder, mel, audio, device),), mel)[0]

    def _mel(self, latents: Array) -> Array:
        decoder, scaled = self._engines["vae_decoder"], latents / np.float32(self._audio.vae_scaling_factor)
        slices = np.split(scaled, len(scaled)) if self._slicing else [scaled]
        mels = [decoder.run({"latents": part})["mel"].copy() for part in slices]
        return self._device.watch("vae_decoder", joined(mels))
