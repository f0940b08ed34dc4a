"""The flags of `trt-audioldm2`, their defaults, and the names that they have in a call."""

import argparse
import re
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NoReturn

from runtime.flags import DASH_HINT, Parser, at_the_end, interval, number, one_or_pair, seeds, whole
from runtime.presets import PRESETS

DESCRIPTION = "Turn a text prompt into an audio file with prebuilt AudioLDM2 engines."
EPILOG = "Build engines first: python -m export build --checkpoint cvssp/audioldm2 (or --checkpoint demo)."
DEFAULT_OUTPUT, DEFAULT_PATTERN = "output.wav", "output-{index:04d}.wav"

FLAG_OF_ARGUMENT = {
    "audio": "--audio",
    "audio_length_in_s": "--duration",
    "encoding": "--encoding",
    "eta": "--eta",
    "extend_s": "--extend",
    "fade": "--fade",
    "feature_cache_interval": "--feature-cache",
    "guidance_interval": "--guidance-interval",
    "guidance_scale": "--guidance-scale",
    "inpaint_hz": "--inpaint-hz",
    "inpaint_seconds": "--inpaint",
    "loop": "--loop",
    "loudness": "--loudness",
    "cuda_graphs": "--no-cuda-graphs",
    "free_text": "--free-text",
    "low_memory": "--low-memory",
    "max_new_tokens": "--max-new-tokens",
    "negative_prompt": "--negative-prompt",
    "num_inference_steps": "--steps",
    "num_waveforms_per_prompt": "--num-waveforms",
    "prompt": "PROMPT",
    "prompt_weights": "--prompt-weights",
    "sample_rate": "--sample-rate",
    "scheduler": "--scheduler",
    "seed": "--seed",
    "seed_device": "--seed-device",
    "strength": "--strength",
    "threads": "--threads",
    "transcription": "--transcription",
    "vae_slicing": "--vae-slicing",
    "window_s": "--window",
}
_ARGUMENT = re.compile(rf"^({'|'.join(FLAG_OF_ARGUMENT)})\b|\b({'|'.join(n for n in FLAG_OF_ARGUMENT if '_' in n)})\b")

SCHEDULERS = (
    "ddim, ddpm, pndm, lms, euler, euler_a, heun, dpm2, dpm2_a, dpmpp_2m, dpmpp_2s, unipc, deis or lcm, or a class "
    "name such as DPMSolverMultistepScheduler"
)


def with_flags(message: str, names: dict[str, str] = FLAG_OF_ARGUMENT) -> str:
    """A message about a call's arguments with the flags' names in it, or with others that the user gave them by.

    Names that are words of English are replaced at the start of the message only.
    """
    return _ARGUMENT.sub(lambda found: names.get(found[0], found[0]), message)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read a command line. Ends the program with one line and status 2 if it is wrong, as `Parser` does."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.prompt is None and options.prompts_file is None:
        parser.error(f"give a PROMPT, or --prompts-file ({DASH_HINT})")
    if options.prompt is not None and options.prompts_file is not None:
        parser.error("give either a PROMPT or --prompts-file, not both")
    options.slow_by_default = not options.preset and options.steps is None and options.scheduler is None
    if options.preset is not None:
        for name in ("steps", "scheduler", "guidance_interval"):
            if getattr(options, name) is None:
                setattr(options, name, getattr(PRESETS[options.preset], name))
    return options


def pipeline_options(options: argparse.Namespace) -> dict[str, Any]:
    """What opens the pipeline of this run, by the names of `AudioLDM2Pipeline.from_pretrained`."""
    names = ("device", "precision", "low_memory", "free_text", "vae_slicing", "cuda_graphs")
    threads = {} if options.threads is None else {"threads": options.threads}
    return {name: getattr(options, name) for name in names} | threads


def call_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """What every call of this run shares, by the names of `Arguments`."""
    return {
        "num_inference_steps": options.steps,
        "guidance_scale": options.guidance_scale,
        "guidance_interval": options.guidance_interval or (0.0, 1.0),
        "feature_cache_interval": options.feature_cache,
        "num_waveforms_per_prompt": options.num_waveforms,
        "eta": options.eta,
        "max_new_tokens": options.max_new_tokens,
        "scheduler": options.scheduler,
        "seed_device": options.seed_device,
        "prompt_weights": options.prompt_weights,
        "loop": options.loop,
        "window_s": options.window,
        "audio": options.audio,
        "strength": options.strength,
        "inpaint_seconds": options.inpaint,
        "inpaint_hz": options.inpaint_hz,
        "extend_s": options.extend,
        "encoding": options.encoding,
    }


class _Version(argparse.Action):
    """Prints the version. It is looked up when it is asked for, because that takes longer than all else in here."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(f"{parser.prog} {version('trt-audioldm2')}")
        parser.exit()


def _parser() -> Parser:
    parser = Parser(prog="trt-audioldm2", description=DESCRIPTION, epilog=EPILOG)
    _add_texts(parser.add_argument)
    _add_sound(parser.add_argument)
    _add_audio(parser.add_argument_group("audio that is given").add_argument)
    _add_finish(parser.add_argument_group("the file").add_argument)
    add_machine(parser.add_argument)
    _add_words(parser.add_argument)
    return parser


def _add_texts(add: Callable[..., argparse.Action]) -> None:
    add("prompt", nargs="?", metavar="PROMPT", help=f"what to hear; {DASH_HINT}")
    add("--prompts-file", metavar="FILE", help="many prompts: one a line, or JSON lines; - reads standard input")
    add("--batch-size", type=whole, default=1, metavar="N", help="prompts rendered at once (default: %(default)s)")
    add("--transcription", metavar="TEXT", help="what to say, for a speech checkpoint; the prompt describes the voice")
    add("--negative-prompt", metavar="TEXT", help="what not to hear")
    add("--prompt-weights", action="store_true", help='read "(word:1.3)" in prompts as a weight')
    add("--engines", metavar="FOLDER", help="the bundle (default: $TRT_AUDIOLDM2_ENGINES, or the only one in engines/)")
    add(
        "--output",
        "-o",
        metavar="FILE",
        help=f".wav, .flac, .ogg, .opus or .mp3, or - for WAV on standard output (default: {DEFAULT_OUTPUT}); with "
        "--prompts-file a pattern with "
        f"{{index}}, {{line}}, {{seed}} or {{prompt}} (default: {DEFAULT_PATTERN})",
    )


def _add_sound(add: Callable[..., argparse.Action]) -> None:
    for name, preset in PRESETS.items():
        told = f"{preset}, where other flags do not say"
        add(f"--{name}", dest="preset", action="store_const", const=name, help=told)
    add("--steps", type=whole, metavar="N", help="denoising steps (default: the model's, 200, or what was distilled)")
    add("--scheduler", metavar="NAME", help=f"{SCHEDULERS} (default: the checkpoint's)")
    guidance = "1 or less: no guidance, half the work (default: the bundle's, 3.5)"
    add("--guidance-scale", type=number, metavar="X", help=guidance)
    add(
        "--guidance-interval",
        type=interval,
        metavar="A:B",
        help="guide from share A of the steps up to share B only: faster, and not the same sound (default: 0:1)",
    )
    add(
        "--feature-cache",
        type=whole,
        default=1,
        metavar="N",
        help="run the whole UNet at every N-th step, its outermost level at the others: faster, and not the same sound "
        "(default: %(default)s)",
    )
    length = "length (default: the checkpoint's, 10.24 s for the published)"
    add("--duration", type=number, metavar="SECONDS", help=length)
    add("--num-waveforms", type=whole, default=1, metavar="N", help="make N, keep the one CLAP ranks best (default: 1)")
    add("--seed", type=seeds, metavar="N[,N...]", help="one, or one a waveform (default: drawn, and printed)")
    add("--loop", action="store_true", help="let the end lead into the beginning")
    windows = "windows of this length, for long sounds in little memory (default: all at once)"
    add("--window", type=number, metavar="SECONDS", help=windows)
    add("--eta", type=number, default=0.0, metavar="X", help="DDIM's noise, 0 to 1 (default: %(default)s)")
    add("--max-new-tokens", type=whole, metavar="N", help="GPT2's new embeddings (default: the checkpoint's)")
    add("--seed-device", choices=["cpu", "cuda"], default="cpu", help="whose generator of torch's a seed is for")


def _add_audio(add: Callable[..., argparse.Action]) -> None:
    add("--audio", metavar="FILE", help="make the sound from this one; of a file that libsndfile reads")
    strength = "from 0, the same sound, to 1, nothing of it (default: 0.8; with a range or an extension 1)"
    add("--strength", type=number, metavar="X", help=strength)
    anew = "make this range anew and keep the rest, sample by sample; may be given again"
    add("--inpaint", type=interval, action="append", metavar="START:STOP", help=f"seconds: {anew}")
    frequencies = "make these frequencies anew, in the ranges or everywhere"
    add("--inpaint-hz", type=interval, metavar="LOW:HIGH", help=frequencies)
    add("--extend", type=at_the_end, metavar="[BEFORE:]SECONDS", help="go on for so long, at the end or on either side")
    add("--encoding", choices=["mode", "sample"], default="mode", help="of the encoder's latents (default: mode)")


def _add_finish(add: Callable[..., argparse.Action]) -> None:
    add("--fade", type=one_or_pair, default=(0.0, 0.0), metavar="SECONDS[:OUT]", help="fade in and out (default: 0)")
    loudness = "integrated loudness, such as -16; the true peak stays at -1 dBTP or below"
    add("--loudness", type=number, metavar="LUFS", help=loudness)
    add("--sample-rate", type=whole, metavar="HZ", help="of the file (default: the model's); adds nothing above it")


def add_machine(add: Callable[..., argparse.Action], *, backends: bool = False) -> None:
    """Flags for what `pipeline_options` reads, and for the backend, or for several."""
    device = "auto, cpu, cuda or cuda:N (default: %(default)s, as the bundle needs)"
    backend = "what runs graphs: auto, onnxruntime or openvino (default: $TRT_AUDIOLDM2_BACKEND, or auto)"
    precision = "of openvino: auto, fp32 or bf16 (default: auto, bf16 where the CPU has it)"
    add("--device", default="auto", metavar="NAME", help=device)
    add("--backend", metavar="NAME", help=backend, **({"action": "append"} if backends else {}))
    add("--precision", default="auto", metavar="NAME", help=precision)
    add("--threads", type=whole, metavar="N", help="CPU threads (default: as many as this process may use)")
    add("--no-cuda-graphs", dest="cuda_graphs", action="store_false", help="on a GPU: run all work without CUDA graphs")
    add("--low-memory", action="store_true", help="load each engine when it is needed, free it after")
    add("--free-text", action="store_true", help="load text engines for each new prompt, free them once it is encoded")
    add("--vae-slicing", action="store_true", help="decode waveforms one by one: less memory with --num-waveforms")


def _add_words(add: Callable[..., argparse.Action]) -> None:
    add("--plot", action="store_true", help="write a spectrogram beside each file, as PNG")
    add("--float", action="store_true", help="write 32-bit float WAV instead of 16-bit PCM")
    add("--quiet", "-q", action="store_true", help="print errors only")
    add("--json", action="store_true", help="print the result as one JSON line")
    add("--debug", action="store_true", help="print the traceback of an error")
    add("--version", action=_Version, nargs=0, help="print the version")
