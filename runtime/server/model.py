"""The one model of a service, as clients see it."""

from dataclasses import dataclass
from typing import Any

from runtime.bundle.manifest import Manifest
from runtime.diffusion.schedulers import scheduler_names
from runtime.server.fields import FORMATS, Edit, Fields, LimitError, Limits
from runtime.sound.reading import read_waveform


@dataclass(frozen=True)
class Model:
    """Its name, what is known of it, and what may be asked of it."""

    name: str
    manifest: Manifest
    limits: Limits

    @property
    def speaks(self) -> bool:
        """Whether it is a speech checkpoint."""
        return self.manifest.speech is not None

    @property
    def default_duration_s(self) -> float:
        """The length of a sound whose length is left out: no more than is allowed."""
        return min(self.manifest.audio.default_duration_s, self.limits.max_duration_s)

    @property
    def default_steps(self) -> int:
        """The same for steps."""
        return min(self.manifest.defaults.num_inference_steps, self.limits.max_steps)

    def arguments(self, fields: Fields) -> dict[str, Any]:
        """What a body asks of a call of the pipeline. Raises InputError, or LimitError."""
        own = {"audio_length_in_s": self.default_duration_s, "num_inference_steps": self.default_steps}
        return own | fields.arguments(self.limits, speaks=self.speaks)

    def edit_arguments(self, fields: Edit, sound: bytes) -> dict[str, Any]:
        """The same for a body with a sound in it. Raises InputError for one that cannot be read, too."""
        own = {"num_inference_steps": self.default_steps} | fields.arguments(self.limits, speaks=self.speaks)
        rate, most_s = self.manifest.audio.sample_rate_hz, self.limits.max_duration_s
        audio, extend = read_waveform(sound, None, rate), fields.extend_s
        added = sum(extend) if isinstance(extend, tuple) else extend or 0.0
        if len(audio) / rate + added > most_s:
            raise LimitError(
                f"the sound would be {len(audio) / rate + added:.1f} s long, this service allows up to {most_s:g} s"
            )
        return own | {"audio": audio, "sampling_rate": rate}

    def described(self) -> dict[str, Any]:
        """What `GET /v1/models` tells of it: OpenAI's fields, and what a client needs to know to ask."""
        limits = self.limits
        return {
            "id": self.name,
            "object": "model",
            "created": 0,
            "owned_by": "local",
            "sampling_rate": self.manifest.audio.sample_rate_hz,
            "default_duration": self.default_duration_s,
            "max_duration": limits.max_duration_s,
            "default_steps": self.default_steps,
            "max_steps": limits.max_steps,
            "max_waveforms": limits.max_waveforms,
            "default_guidance_scale": self.manifest.defaults.guidance_scale,
            "default_scheduler": self.manifest.scheduler["_class_name"],
            "schedulers": list(scheduler_names()),
            "speech": self.speaks,
            "edits": "vae_encoder" in self.manifest.engines,
            "formats": list(FORMATS),
        }
