"""What engines see in use: their inputs, recorded on denoising trajectories of the checkpoint itself."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from runtime.backends.device import Array
from runtime.bundle import Bundle
from runtime.pipeline import AudioLDM2Pipeline

Feeds = Mapping[str, Array]
STEPS, SCHEDULER, GUIDANCE = 5, "DPMSolverMultistepScheduler", 3.5
EVERY = 2  # steps of a trajectory, from the first or the second on: neighbors are alike
LONGEST_S = 5.12  # as long as it need be: half of the published checkpoints' 10.24 s
# Many and unlike: what attention sees depends on the text, and what it has never seen is clipped.
PROMPTS = (
    "A low church bell rings twice",
    "Techno music with a strong, upbeat tempo",
    "A dog barks while rain falls on a tin roof",
    "A woman is speaking in a large hall",
    "A gentle acoustic guitar melody",
    "An engine starts and a car drives away",
    "silence",
    "A high steady tone",
    "A solo violin plays a long, slow note with vibrato",
    "Loud alarm, beeping quickly",
    "Thunder rumbles in the distance and wind blows through the trees",
    "A crowd applauds and cheers after a concert",
    "Drum solo",
    "A telephone rings",
    "Birds sing in the early morning, a stream flows over stones, and somebody walks on gravel",
    "A siren wails, rising and falling",
    "Deep electronic drone, dark ambient, 8-bit, mastered",
    "A man laughs, then coughs",
    "White noise",
    "Typing on a mechanical keyboard in a quiet office with a humming computer",
    "Piano and double bass, jazz trio, live recording in a small club",
    "Glass breaks",
    "A cat",
    "Waves crash on a beach as seagulls cry overhead and children play far away",
)


def record(
    folder: Path, names: tuple[str, ...], prompts: tuple[str, ...] = PROMPTS, *, longest_s: float = LONGEST_S
) -> dict[str, list[Feeds]]:
    """Inputs of the named engines of the bundle at `folder`, over one call a prompt, each from noise of its own.

    Of an engine that runs more than once a call only every so many inputs are kept.
    """
    bundle = Bundle.read(folder)
    pipeline = AudioLDM2Pipeline(bundle, "cpu", precision="fp32")
    fed: dict[str, list[Feeds]] = {name: [] for name in names}
    for name in names:
        pipeline.engines.intercept(name, partial(_remember, fed[name]))
    kept: dict[str, list[Feeds]] = {name: [] for name in names}
    audio = bundle.manifest.audio
    length_s = min(audio.default_duration_s, LONGEST_S, longest_s)
    call = {"num_inference_steps": STEPS, "scheduler": SCHEDULER, "guidance_scale": GUIDANCE}
    for seed, prompt in enumerate(prompts):
        pipeline(prompt, **call, audio_length_in_s=length_s, seed=seed)
        for name, seen in fed.items():
            kept[name] += seen[seed % min(EVERY, len(seen)) :: EVERY]
            seen.clear()
    pipeline.close()
    return kept


def _remember(seen: list[Feeds], run: Callable[[Feeds], Feeds], feeds: Feeds) -> Feeds:
    """Run an engine, and keep a copy of what it was fed."""
    seen.append({name: array.copy() for name, array in feeds.items()})
    return run(feeds)
