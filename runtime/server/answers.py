"""A result in the forms that a client may ask for: sound files, JSON, a zip, and the headers beside them."""

import base64
import io
import struct
import zipfile
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.output import AudioOutput
from runtime.request import Request
from runtime.server.ticket import Ticket
from runtime.sound.files import as_integers, sound_file, within_full_scale
from runtime.sound.finish import PLAIN, Finish
from runtime.sound.saving import Sound

PCM_BYTES = 2  # a sample: 16 bits, little-endian, one channel
WAV_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")


def finished(output: AudioOutput, finish: Finish) -> AudioOutput:
    """The output with each waveform finished."""
    if finish == PLAIN:
        return output
    sounds = [finish(Sound(audio, output.sampling_rate)) for audio in output.audios]
    audios = np.stack([sound.waveform for sound in sounds])
    return replace(output, audios=audios, sampling_rate=sounds[0].sample_rate_hz)


def sound_bytes(waveform: npt.NDArray[np.float32], rate: int, response_format: str) -> bytes:
    """One waveform (samples,) as a file of this format. One that is louder than full scale is scaled down to fit."""
    if response_format == "pcm":
        return pcm(within_full_scale(waveform))
    return sound_file(f"sound.{response_format}", waveform, rate)


def pcm(waveform: npt.NDArray[np.float32]) -> bytes:
    """Samples from -1 to 1 as integers of 16 bits, little-endian. What is beyond is clipped."""
    return as_integers(waveform).astype("<i2").tobytes()


def wav_header(samples: int, rate: int) -> bytes:
    """What comes before so many samples of `pcm` in a WAV file."""
    size = samples * PCM_BYTES
    riff, fmt = 36 + size, (1, 1, rate, rate * PCM_BYTES, PCM_BYTES, 8 * PCM_BYTES)  # 1: PCM, 1: mono
    return WAV_HEADER.pack(b"RIFF", min(riff, 2**32 - 1), b"WAVE", b"fmt ", 16, *fmt, b"data", min(size, 2**32 - 1))


def described(output: AudioOutput, ticket: Ticket, response_format: str) -> dict[str, Any]:
    """All waveforms with what is known of them, the best first, for JSON."""
    rate, scores = output.sampling_rate, output.scores
    waveforms = [
        {
            "b64_json": encoded(sound_bytes(audio, rate, response_format)),
            "seed": output.seeds[i] if len(output.seeds) > 1 else output.seeds[0],
            "score": None if scores is None else round(float(scores[i]), 4),
        }
        for i, audio in enumerate(output.audios)
    ]
    return {
        "sampling_rate": rate,
        "duration": output.audios.shape[1] / rate,
        "format": response_format,
        "data": waveforms,
        "timings": stages(output, ticket),
    }


def encoded(part: bytes) -> str:
    """Bytes for JSON."""
    return base64.b64encode(part).decode()


def zipped(output: AudioOutput, response_format: str) -> bytes:
    """All waveforms as files in a zip, the best first: sound-1, sound-2 and so on."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for i, audio in enumerate(output.audios):
            name = f"sound-{i + 1}.{response_format}"
            archive.writestr(name, sound_bytes(audio, output.sampling_rate, response_format))
    return buffer.getvalue()


def stages(output: AudioOutput, ticket: Ticket) -> dict[str, float]:
    """Seconds by stage, with the time in the queue."""
    return {"queue": ticket.queued_s, **output.timings}


def headers_before(request: Request, rate: int) -> dict[str, str]:
    """What is known of a sound before it is made."""
    return {
        "X-Seed": ",".join(map(str, request.seeds)),
        "X-Sample-Rate": str(rate),
        "X-Audio-Duration": f"{request.result_s:.3f}",
    }


def headers_after(output: AudioOutput, ticket: Ticket) -> dict[str, str]:
    """What is known of a sound when it is made."""
    timing = ", ".join(f"{name};dur={1000 * seconds:.1f}" for name, seconds in stages(output, ticket).items())
    scores = {} if output.scores is None else {"X-Scores": ",".join(f"{score:.4f}" for score in output.scores)}
    return headers_before(ticket.request, output.sampling_rate) | scores | {"Server-Timing": timing}
