"""`python -m bench.serve.rival CHECKPOINT`: the reference pipeline behind FastAPI, as most people serve it.

One process, one call at a time behind a lock, a plain `def` endpoint. It takes the requests that ours takes.
"""

import io
import sys
import threading
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import soundfile
import torch
import uvicorn
from fastapi import FastAPI, Response
from pydantic import BaseModel

from bench.latency.pipelines import GUIDANCE, SCHEDULER
from bench.report import gpu
from bench.rivals import load_reference
from bench.serve.plan import ENDPOINT
from bench.serve.subjects import listen, tell


class Generate(BaseModel):
    """The fields of a request that the load sends."""

    input: str
    audio_length: float
    num_inference_steps: int
    guidance_scale: float = GUIDANCE
    seed: int | None = None
    scheduler: str = SCHEDULER


def create_app(checkpoint: Path) -> FastAPI:
    """The application, with its pipeline loaded: FP32 on a CPU, FP16 on a GPU."""
    device, precision = ("cpu", "float32") if gpu() is None else ("cuda", "float16")
    pipe, lock, app = load_reference(checkpoint, precision, device), threading.Lock(), FastAPI()
    pipe.scheduler = getattr(diffusers, SCHEDULER).from_config(pipe.scheduler.config)

    @app.post(ENDPOINT)
    def generate(request: Generate) -> Response:
        with lock:
            audio = render(pipe, request)
        buffer = io.BytesIO()
        soundfile.write(buffer, audio, pipe.vocoder.config.sampling_rate, "PCM_16", format="WAV")
        return Response(buffer.getvalue(), media_type="audio/wav")

    return app


def render(pipe: Any, request: Generate) -> np.ndarray:
    """The samples of one call, within full scale."""
    if request.scheduler != SCHEDULER:
        raise ValueError(f"this server has {SCHEDULER} alone")
    generator = None if request.seed is None else torch.Generator().manual_seed(request.seed)
    audio: np.ndarray = pipe(
        request.input,
        audio_length_in_s=request.audio_length,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        generator=generator,
    ).audios[0]
    return audio / max(1.0, float(np.abs(audio).max()))


if __name__ == "__main__":
    application = create_app(Path(sys.argv[1]))
    listener = listen()
    tell(listener)
    uvicorn.Server(uvicorn.Config(application, log_level="warning")).run(sockets=[listener])
