"""What the body of a request may hold, under the names of vLLM-Omni's endpoint, ours, and the reference pipeline's."""

from typing import Any, Literal

import msgspec

from runtime.arguments import Arguments
from runtime.checks import number
from runtime.errors import AudioLDM2Error, InputError
from runtime.wording import readable

FORMATS = {  # by response_format: the media type of the answer
    "wav": "audio/wav",
    "flac": "audio/flac",
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "pcm": "audio/pcm",
}
LONGEST_TEXT = 10_000  # characters: far more than any text encoder reads


class LimitError(AudioLDM2Error):
    """A value is well formed, and more than this service allows."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one call may ask of the service."""

    max_duration_s: float = 60.0
    max_steps: int = 200
    max_body_bytes: int = 1 << 20


class Generate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /v1/audio/generate`. What is left out has the pipeline's default.

    `prompt` is another name of `input`, and `audio_length_in_s` of `audio_length`, in seconds. `timeout_s` is the time
    within which the result is wanted.
    """

    input: str | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    transcription: str | None = None
    audio_length: float | None = None
    audio_length_in_s: float | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_interval: tuple[float, float] | None = None
    feature_cache_interval: int | None = None
    scheduler: str | None = None
    seed: int | None = None
    response_format: Literal["wav", "flac", "mp3", "opus", "pcm"] = "wav"
    model: str | None = None
    timeout_s: float | None = None

    def arguments(self, limits: Limits) -> dict[str, Any]:
        """The same for `AudioLDM2Pipeline.__call__`. Raises InputError, or LimitError for more than is allowed."""
        if self.timeout_s is not None:
            number("timeout_s", self.timeout_s, 0.0)
        given = {name: getattr(self, name) for name in self.__struct_fields__ if name in Arguments.__dataclass_fields__}
        arguments = {name: value for name, value in given.items() if value is not None}
        arguments["prompt"] = _one_of("input", self.input, "prompt", self.prompt)
        arguments["audio_length_in_s"] = _one_of(
            "audio_length", self.audio_length, "audio_length_in_s", self.audio_length_in_s
        )
        if arguments["prompt"] is None:
            raise InputError("input is missing: what is to be heard")
        _check_limits(arguments, limits)
        return arguments


def read_body(body: bytes) -> Generate:
    """The fields of a body. Raises InputError that says in one line what is wrong, and with which field."""
    try:
        return msgspec.json.decode(body, type=Generate)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"the body is not right: {readable(str(error), 300)}") from error


def _one_of(name: str, value: Any, alias: str, other: Any) -> Any:
    """The value of a field that has two names, None if neither is given. Raises InputError where both are."""
    if value is not None and other is not None:
        raise InputError(f"{name} and {alias} are two names of one field: give one of them")
    return other if value is None else value


def _check_limits(arguments: dict[str, Any], limits: Limits) -> None:
    for name in ("prompt", "negative_prompt", "transcription"):
        if len(arguments.get(name) or "") > LONGEST_TEXT:
            raise LimitError(f"{name} has more than {LONGEST_TEXT} characters")
    if not arguments["prompt"].strip():
        raise InputError("input is blank: say what is to be heard")
    duration, steps = arguments["audio_length_in_s"], arguments.get("num_inference_steps")
    if duration is not None and duration > limits.max_duration_s:
        raise LimitError(f"audio_length is {duration:g} s, this service allows up to {limits.max_duration_s:g} s")
    if steps is not None and steps > limits.max_steps:
        raise LimitError(f"num_inference_steps is {steps}, this service allows up to {limits.max_steps}")
