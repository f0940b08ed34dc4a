"""What the body of a request may hold, under the names of the services that existing clients talk to, and ours."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from runtime.arguments import Arguments
from runtime.checks import number
from runtime.errors import AudioLDM2Error, InputError
from runtime.sound.files import check_rate
from runtime.sound.finish import Finish
from runtime.wording import readable

FORMATS = {  # by response_format: the media type of the answer
    "wav": "audio/wav",
    "flac": "audio/flac",
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "pcm": "audio/pcm",
}
IN_CHUNKS = ("wav", "pcm")  # what can be sent before its end is made
TEXTS = ("input", "prompt", "negative_prompt", "transcription")  # whatever they begin with
LONGEST_TEXT = 10_000  # characters: far more than any text encoder reads
SPEAKER = "A person speaks clearly"  # the prompt of a speech checkpoint where a client cannot give one

Format = Literal["wav", "flac", "mp3", "opus", "pcm"]
T = TypeVar("T", bound=msgspec.Struct)


def says(description: str) -> msgspec.Meta:
    """What the API's description tells of a field."""
    return msgspec.Meta(description=description)


class LimitError(AudioLDM2Error):
    """A value is well formed, and more than this service allows."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one call may ask of the service."""

    max_duration_s: float = 60.0
    max_steps: int = 200
    max_waveforms: int = 4
    max_body_bytes: int = 1 << 20
    max_upload_bytes: int = 32 << 20  # of a form with a sound in it


class Fields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all bodies may hold: how the sound is made, and how it is sent. Defaults are the pipeline's."""

    negative_prompt: Annotated[str | None, says("what is not to be heard")] = None
    audio_length: Annotated[float | None, says("seconds of sound; default: the checkpoint's")] = None
    audio_length_in_s: Annotated[float | None, says("another name of audio_length")] = None
    num_inference_steps: Annotated[int | None, says("denoising steps: fewer are faster and coarser")] = None
    guidance_scale: Annotated[float | None, says("how strongly the prompt counts; up to 1: no guidance")] = None
    guidance_interval: Annotated[
        tuple[float, float] | None, says("shares of the steps between which there is guidance")
    ] = None
    feature_cache_interval: Annotated[int | None, says("the whole UNet runs at every so many steps")] = None
    window_s: Annotated[float | None, says("seconds that the model sees at once, for long sounds")] = None
    loop: Annotated[bool | None, says("whether the end leads into the beginning")] = None
    prompt_weights: Annotated[bool | None, says('whether "(word:1.3)" in prompts is a weight')] = None
    num_waveforms_per_prompt: Annotated[int | None, says("waveforms to make; the best comes first")] = None
    scheduler: Annotated[str | None, says("class name of a scheduler: see GET /v1/models")] = None
    fade: Annotated[float | tuple[float, float] | None, says("seconds of fade in and out, or [in, out]")] = None
    loudness: Annotated[float | None, says("integrated loudness in LUFS; the true peak stays below -1 dBTP")] = None
    sample_rate: Annotated[int | None, says("of the file, in Hz; default: the model's")] = None
    seed: Annotated[int | None, says("from 0 to 2**64 - 1; drawn if left out, and told in X-Seed")] = None
    response_format: Annotated[Format, says("pcm is 16 bits, little-endian, one channel")] = "wav"
    stream_format: Annotated[
        Literal["audio", "sse"] | None,
        says("audio: in chunks as it is made; sse: events with progress; left out: as a whole"),
    ] = None
    model: Annotated[str | None, says("the name that GET /v1/models tells")] = None
    timeout_s: Annotated[float | None, says("seconds within which the result is wanted")] = None

    @property
    def finish(self) -> Finish:
        """What is done to the finished sound. Raises InputError, or MissingDependencyError."""
        fade = self.fade or 0.0
        finish = Finish(fade if isinstance(fade, tuple) else (fade, fade), self.loudness, self.sample_rate)
        if self.sample_rate is not None and self.response_format != "pcm":
            check_rate(f"sound.{self.response_format}", self.sample_rate)
        return finish

    def texts(self, speaks: bool) -> dict[str, str | None]:
        """The prompt, and what is to be spoken, as the arguments of a call."""
        raise NotImplementedError

    def arguments(self, limits: Limits, *, speaks: bool) -> dict[str, Any]:
        """The same for `AudioLDM2Pipeline.__call__`. Raises InputError, or LimitError for more than is allowed."""
        if self.timeout_s is not None:
            number("timeout_s", self.timeout_s, 0.0)
        if self.stream_format == "audio" and self.response_format not in IN_CHUNKS:
            raise InputError(f"stream_format audio sends {' or '.join(IN_CHUNKS)}, not {self.response_format}")
        own = Arguments.__dataclass_fields__
        given = {name: getattr(self, name) for name in self.__struct_fields__ if name in own} | self.texts(speaks)
        given["audio_length_in_s"] = _one_of(
            "audio_length", self.audio_length, "audio_length_in_s", self.audio_length_in_s
        )
        arguments = {name: value for name, value in given.items() if value is not None}
        _check_limits(arguments, limits)
        return arguments


class Generate(Fields, frozen=True, kw_only=True):
    """The body of `POST /v1/audio/generate`."""

    input: Annotated[str | None, says("what is to be heard")] = None
    prompt: Annotated[str | None, says("another name of input")] = None
    transcription: Annotated[str | None, says("what a speech checkpoint says")] = None

    def texts(self, speaks: bool) -> dict[str, str | None]:  # noqa: ARG002
        """`input` or `prompt`, and `transcription`."""
        prompt = _one_of("input", self.input, "prompt", self.prompt)
        if prompt is None:
            raise InputError("input is missing: what is to be heard")
        return {"prompt": prompt, "transcription": self.transcription}


class Edit(Generate, frozen=True, kw_only=True):
    """The fields of `POST /v1/audio/edit` beside the sound itself; the sound has its own length."""

    strength: Annotated[float | None, says("from 0, the same sound, to 1, nothing of it")] = None
    inpaint_seconds: Annotated[
        tuple[tuple[float, float], ...] | None, says("ranges [[start, stop], ...] to make anew; the rest is kept")
    ] = None
    inpaint_hz: Annotated[tuple[float, float] | None, says("frequencies [low, high] to make anew")] = None
    extend_s: Annotated[
        float | tuple[float, float] | None, says("seconds to add at the end, or [at the start, at the end]")
    ] = None
    encoding: Annotated[Literal["mode", "sample"] | None, says("of the encoder's latents")] = None

    def arguments(self, limits: Limits, *, speaks: bool) -> dict[str, Any]:
        """As of all fields. Raises InputError for a sound that cannot be sent in chunks, too."""
        if self.stream_format == "audio" and (self.inpaint_seconds or self.inpaint_hz or self.extend_s):
            raise InputError("stream_format audio would send the sound before what is kept is put back: leave it out")
        return super().arguments(limits, speaks=speaks)


class Speech(Fields, frozen=True, kw_only=True):
    """The body of `POST /v1/audio/speech`, OpenAI's."""

    input: Annotated[str, says("what is to be heard; of a speech checkpoint, what is said")]
    voice: Annotated[str | dict[str, str] | None, says("has no meaning here")] = None
    instructions: Annotated[str | None, says("the voice of a speech checkpoint")] = None
    speed: Annotated[float, says("1")] = 1.0
    response_format: Format = "mp3"

    def texts(self, speaks: bool) -> dict[str, str | None]:
        """`input` as the prompt, or as what is said in the voice of `instructions`."""
        if self.speed != 1.0:
            raise InputError(f"speed has to be 1, got {self.speed:g}: ask for another audio_length")
        if speaks:
            return {"prompt": self.instructions or SPEAKER, "transcription": self.input}
        if self.instructions is not None:
            raise InputError("instructions are for speech checkpoints only: this one takes an input alone")
        return {"prompt": self.input}


class Parameters(Fields, frozen=True, kw_only=True):
    """The `parameters` of `POST /`: see `Inputs`."""

    prompt: Annotated[str | None, says("the voice of a speech checkpoint")] = None
    transcription: Annotated[str | None, says("what a speech checkpoint says, where inputs is the prompt")] = None


class Inputs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /` and `POST /models/{model}`, Hugging Face's."""

    inputs: Annotated[str, says("what is to be heard; of a speech checkpoint, what is said")]
    parameters: Parameters = Parameters()
    options: Annotated[dict[str, Any] | None, says("has no meaning here")] = None

    def generate(self, *, speaks: bool) -> Generate:
        """The same as the body of `POST /v1/audio/generate`."""
        own = {name: getattr(self.parameters, name) for name in self.parameters.__struct_fields__}
        if speaks and own["transcription"] is None:
            own |= {"prompt": own["prompt"] or SPEAKER, "transcription": self.inputs}
        elif own["prompt"] is not None:
            raise InputError("parameters.prompt is for speech checkpoints only: inputs is the prompt")
        else:
            own["prompt"] = self.inputs
        return Generate(**own)


def read_body(body: bytes, kind: type[T]) -> T:
    """The fields of a body. Raises InputError that says in one line what is wrong, and with which field."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"the body is not right: {readable(str(error), 300)}") from error


def read_form(fields: Mapping[str, str]) -> Edit:
    """The fields of a form, whose values are texts: numbers as they are written, ranges as JSON. Raises InputError."""
    read: dict[str, Any] = {}
    for name, text in fields.items():
        is_json = name not in TEXTS and text.lstrip()[:1] == "["
        try:
            read[name] = msgspec.json.decode(text) if is_json else text
        except msgspec.DecodeError as error:
            raise InputError(f"{readable(name)} is no JSON: {readable(str(error), 100)}") from error
    try:
        return msgspec.convert(read, Edit, strict=False)
    except (msgspec.ValidationError, RecursionError) as error:
        raise InputError(f"the form is not right: {readable(str(error), 300)}") from error


def _one_of(name: str, value: Any, alias: str, other: Any) -> Any:
    """The value of a field that has two names, None if neither is given. Raises InputError where both are."""
    if value is not None and other is not None:
        raise InputError(f"{name} and {alias} are two names of one field: give one of them")
    return other if value is None else value


def _check_limits(arguments: Mapping[str, Any], limits: Limits) -> None:
    for name in ("prompt", "negative_prompt", "transcription"):
        if len(arguments.get(name) or "") > LONGEST_TEXT:
            raise LimitError(f"{name} has more than {LONGEST_TEXT} characters")
    if not arguments["prompt"].strip():
        raise InputError("input is blank: say what is to be heard")
    for name, field, most, unit in (
        ("audio_length_in_s", "audio_length", limits.max_duration_s, " s"),
        ("num_inference_steps", "num_inference_steps", limits.max_steps, ""),
        ("num_waveforms_per_prompt", "num_waveforms_per_prompt", limits.max_waveforms, ""),
    ):
        value = arguments.get(name)
        if value is not None and value > most:
            raise LimitError(f"{field} is {value:g}{unit}, this service allows up to {most:g}{unit}")
