"""AudioLDM and MusicLDM: the same sounds as the reference's pipelines, and what they have no use for."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.build import build
from export.checkpoint import Checkpoint
from export.distill.distill import Lesson, distill
from export.errors import BuildError, CheckpointError
from export.inspect import describe
from export.parity import relative_error
from runtime import AudioLDM2Pipeline, InputError
from runtime.bundle import Bundle
from runtime.cli import main as trt_audioldm2
from runtime.diffusion.schedulers import scheduler_names
from tests.families import FAMILIES, load_family
from tests.unit.helpers import raises_line

TOLERANCE = 1e-3
KNOWN = ["AudioLDM2Pipeline", *(pipeline.__name__ for pipeline in FAMILIES.values())]
PROMPTS = ["A hammer hits a wooden surface, then a dog barks in the rain", "techno"]
CALLS: dict[str, dict[str, Any]] = {
    "defaults of steps and guidance": {"prompt": PROMPTS[0], "audio_length_in_s": 0.4},
    "batch": {"prompt": PROMPTS, "num_inference_steps": 3, "audio_length_in_s": 0.37},
    "no guidance": {"prompt": PROMPTS, "num_inference_steps": 3, "guidance_scale": 1.0, "audio_length_in_s": 0.5},
    "negative": {
        "prompt": PROMPTS,
        "negative_prompt": ["Low quality.", "noise, hum and hiss everywhere"],
        "num_inference_steps": 3,
        "guidance_scale": 6.0,
        "audio_length_in_s": 0.253,
    },
    "noisy": {"prompt": PROMPTS[0], "num_inference_steps": 3, "eta": 0.7, "audio_length_in_s": 0.5},
    "checkpoint's length": {"prompt": PROMPTS[1], "num_inference_steps": 2},
}


@pytest.fixture(scope="module")
def reference(checkpoint: Callable[[str], Path]) -> Callable[[str], Any]:
    return lambda name: load_family(checkpoint(name), name)


@pytest.fixture(scope="module")
def ours(bundle: Callable[[str], Path]) -> Callable[..., AudioLDM2Pipeline]:
    return lambda name, backend="onnxruntime": AudioLDM2Pipeline.from_pretrained(
        bundle(name), "cpu", backend=backend, precision="fp32"
    )


def both(ours: Any, reference: Any, call: dict[str, Any]) -> tuple[Any, Any]:
    seed = int(np.random.default_rng().integers(2**31))
    actual = ours(**call, seed=seed).audios
    expected = reference(**call, generator=torch.Generator().manual_seed(seed)).audios
    expected = np.asarray(expected)
    assert np.sqrt((expected**2).mean()) > 1e-2
    return actual, expected


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", FAMILIES)
def test_same_sound(name: str, call: str, ours: Any, reference: Any) -> None:
    assert relative_error(*both(ours(name), reference(name), CALLS[call])) < TOLERANCE


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # the reference with NumPy 2
@pytest.mark.parametrize("scheduler", scheduler_names())
def test_every_scheduler(scheduler: str, ours: Any, reference: Any) -> None:
    """Of one family alone: the loop knows none."""
    name = "audioldm"
    import diffusers

    theirs = reference(name)
    theirs.scheduler = getattr(diffusers, scheduler).from_config(theirs.scheduler.config)
    call = {"prompt": PROMPTS[0], "num_inference_steps": 4, "audio_length_in_s": 0.4}
    seed = int(np.random.default_rng().integers(2**31))
    actual = ours(name)(**call, seed=seed, scheduler=scheduler).audios
    expected = theirs(**call, generator=torch.Generator().manual_seed(seed)).audios
    assert relative_error(actual, np.asarray(expected)) < TOLERANCE


@pytest.mark.parametrize("options", [{"low_memory": True}, {"free_text": True}, {"vae_slicing": True}], ids=str)
def test_ways_to_save_memory_change_nothing(options: dict[str, Any], bundle: Callable[[str], Path], ours: Any) -> None:
    call = {**CALLS["negative"], "seed": 3}
    saving = AudioLDM2Pipeline.from_pretrained(bundle("musicldm"), "cpu", backend="onnxruntime", **options)
    assert relative_error(saving(**call).audios, ours("musicldm")(**call).audios) < 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_openvino_gives_the_same(name: str, ours: Any, reference: Any) -> None:
    assert relative_error(*both(ours(name, "openvino"), reference(name), CALLS["negative"])) < TOLERANCE


@pytest.mark.parametrize("name", FAMILIES)
def test_embeddings_in_place_of_texts(name: str, ours: Any, reference: Any) -> None:
    pipe, theirs = ours(name), reference(name)
    (embeds,) = pipe.encode_prompt(PROMPTS, do_classifier_free_guidance=True)
    expected = theirs._encode_prompt(PROMPTS, "cpu", 1, True)
    assert relative_error(embeds, expected.detach().numpy()) < 1e-5
    call = {"num_inference_steps": 3, "audio_length_in_s": 0.4, "seed": 3}
    texts = pipe(PROMPTS, **call).audios
    given = pipe(prompt_embeds=embeds[2:], negative_prompt_embeds=embeds[:2], **call).audios
    half = pipe(prompt_embeds=embeds[2:], **call).audios  # negative texts are empty by default
    assert relative_error(given, texts) < 1e-5
    assert relative_error(half, texts) < 1e-5
    with raises_line(InputError, "prompt_embeds has shape", "(prompts, width)"):
        pipe(prompt_embeds=embeds[:, None])
    with raises_line(InputError, "its width has to be"):
        pipe(prompt_embeds=embeds[:, 1:])
    with raises_line(InputError, "give either prompt, or prompt_embeds, not both"):
        pipe(PROMPTS, prompt_embeds=embeds)
    with raises_line(InputError, "negative_prompt_embeds has shape"):
        pipe(PROMPTS, negative_prompt_embeds=embeds[:1])


def test_musicldm_ranks_and_audioldm_does_not(ours: Any) -> None:
    call = {"num_waveforms_per_prompt": 3, "num_inference_steps": 2, "audio_length_in_s": 0.4, "seed": [1, 2, 3]}
    plain, ranked = (ours(name)("techno", **call) for name in ("audioldm", "musicldm"))
    assert plain.scores is None
    assert plain.seeds == (1, 2, 3)
    assert sorted(ranked.scores, reverse=True) == list(ranked.scores)
    alone = ours("musicldm")("techno", **{**call, "num_waveforms_per_prompt": 1, "seed": ranked.seeds[0]}).audios
    assert relative_error(ranked.audios[:1], alone) < 1e-4


@pytest.mark.parametrize("name", FAMILIES)
def test_features_are_kept(name: str, ours: Any) -> None:
    """Two steps, of which the second runs the outermost level alone: nearly what both would have made, and not it."""
    call = {"num_inference_steps": 50, "audio_length_in_s": 0.4, "seed": 3, "output_type": "latent"}
    whole, kept = (ours(name)("techno", **call, feature_cache_interval=n).audios for n in (1, 2))
    assert 0 < relative_error(kept, whole) < 0.5


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("transcription", "hello"),
        ("max_new_tokens", 8),
        ("prompt_weights", True),
        ("attention_mask", np.ones((1, 3))),
        ("generated_prompt_embeds", np.ones((1, 8, 4))),
    ],
)
@pytest.mark.parametrize("name", FAMILIES)
def test_what_it_has_no_use_for(name: str, argument: str, value: Any, ours: Any) -> None:
    with raises_line(InputError, argument, FAMILIES[name].__name__):
        ours(name)("techno", **{argument: value})


@pytest.mark.parametrize("name", FAMILIES)
def test_there_is_no_language_model(name: str, ours: Any) -> None:
    with raises_line(InputError, "has no language model"):
        ours(name).generate_language_model(np.ones((1, 3, 4), np.float32))


def test_it_cannot_be_distilled(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    with raises_line(BuildError, "AudioLDM2's alone"):
        distill(Checkpoint(checkpoint("musicldm"), "it"), ["a"] * 5, Lesson(steps=1), tmp_path / "student")


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_bundle_says_of_itself(name: str, bundle: Callable[[str], Path]) -> None:
    assert f"{FAMILIES[name].__name__}'s" in describe(Bundle.read(bundle(name)))


def test_the_command(bundle: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "a bell",
        "--engines",
        str(bundle("audioldm")),
        "--duration",
        "0.3",
        "--output",
        str(tmp_path / "x.wav"),
    ]
    assert trt_audioldm2([*arguments, "--steps", "2"]) == 0
    assert (tmp_path / "x.wav").stat().st_size > 9_000
    capsys.readouterr()
    assert trt_audioldm2([*arguments, "--num-waveforms", "2"]) == 1
    assert "--num-waveforms has to be 1" in capsys.readouterr().err
    assert trt_audioldm2([*arguments, "--max-new-tokens", "3"]) == 1
    assert "--max-new-tokens" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        (
            "model_index.json",
            {"_class_name": "StableAudioPipeline"},
            ["StableAudioPipeline", *KNOWN],
        ),
        (
            "unet/config.json",
            {"projection_class_embeddings_input_dim": 32},
            ["embeddings_input_dim 32", "text_encoder"],
        ),
        ("unet/config.json", {"class_embed_type": None}, ["class_embed_type None", "simple_projection"]),
        ("unet/config.json", {"in_channels": 4}, ["unet takes 4 channels"]),
        ("text_encoder/config.json", {"vocab_size": 100}, ["text_encoder has 100 embeddings"]),
        ("model_index.json", {"tokenizer": None}, ["tokenizer"]),
    ],
)
def test_wrong_checkpoints(
    file: str, changes: dict[str, Any], words: list[str], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(checkpoint("audioldm"), tmp_path / "c")
    raw = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**raw, **changes}))
    with raises_line(CheckpointError, *words):
        build(Checkpoint(folder, "it"), tmp_path / "b", report=lambda _: None)
