"""LoRA: merged as its formula says, whoever wrote the file, and what is refused."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from export.__main__ import main
from export.build import build
from export.checkpoint import Checkpoint
from export.errors import CheckpointError
from export.parity import relative_error
from runtime import AudioLDM2Pipeline
from runtime.bundle import Bundle
from tests.conftest import load_reference
from tests.unit.helpers import raises_line

RANK = 3
Halves = dict[tuple[str, str], tuple[torch.Tensor, torch.Tensor]]  # by part and layer, down and up


@pytest.fixture(scope="module")
def halves(checkpoint: Callable[[str], Path]) -> Halves:
    """Random changes of some layers of each kind, in the UNet and in GPT2 and CLAP."""
    source, found = Checkpoint(checkpoint("plain"), "plain"), {}
    wanted = {
        "unet": ("attn1.to_q", "attn1.to_out.0", "attn2.to_k", "proj_in", "conv1", "time_emb_proj"),
        "language_model": ("attn.c_attn", "mlp.c_proj"),
        "text_encoder": ("attention.self.query",),
    }
    for part, endings in wanted.items():
        for name, layer in source.load(part).named_modules():
            if name.endswith(endings) and "audio" not in name:
                weight = layer.weight.T if type(layer).__name__ == "Conv1D" else layer.weight
                down = torch.randn(RANK, *weight.shape[1:]) / weight[0].numel() ** 0.5
                found[part, name] = down, 0.3 * torch.randn(len(weight), RANK, *(1 for _ in weight.shape[2:]))
    assert len(found) > 20
    return found


def spelled(halves: Halves, spelling: str) -> Iterator[tuple[str, torch.Tensor]]:
    """The keys of a file."""
    kohya = {"unet": "lora_unet", "text_encoder": "lora_te", "language_model": "language_model"}
    for (part, name), (down, up) in halves.items():
        place = f"{part}.{name}"
        sides = ("down.weight", "up.weight")
        if spelling == "peft":
            sides = ("lora_A.default.weight", "lora_B.default.weight")
        elif spelling == "diffusers":
            sides = ("lora_A.weight", "lora_B.weight")
        elif spelling == "older diffusers":
            sides = ("lora.down.weight", "lora.up.weight")
        elif spelling == "processors":
            projection = next((p for p in ("to_q", "to_k", "to_out.0") if name.endswith(p)), None)
            if projection is None:
                sides = ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight")
            else:
                place = f"{part}.{name.removesuffix('.' + projection)}.processor"
                sides = tuple(f"{projection.removesuffix('.0')}_lora.{side}.weight" for side in ("down", "up"))
        else:
            if part == "language_model":
                sides = ("lora_down.weight", "lora_up.weight")
            else:
                place, sides = f"{kohya[part]}_{name.replace('.', '_')}", ("lora_down.weight", "lora_up.weight")
            yield f"{place}.alpha", torch.tensor(2.0 * RANK)
        yield from ((f"{place}.{side}", half.contiguous()) for side, half in zip(sides, (down, up), strict=True))


def expected(weight: torch.Tensor, halves: tuple[torch.Tensor, torch.Tensor], factor: float) -> torch.Tensor:
    """The formula, one element of the product at a time."""
    down, up = halves
    change = torch.einsum("or...,ri...->oi...", up.flatten(1), down.flatten(1)).reshape(weight.shape)
    return weight + factor * change


@pytest.mark.parametrize("spelling", ["peft", "diffusers", "older diffusers", "processors", "kohya"])
def test_every_spelling(spelling: str, halves: Halves, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    save_file(dict(spelled(halves, spelling)), tmp_path / "it.safetensors")
    plain = Checkpoint(checkpoint("plain"), "plain")
    merged = Checkpoint(checkpoint("plain"), "plain", loras=[f"{tmp_path / 'it.safetensors'}:0.5"])
    assert merged.weights_sha256 != plain.weights_sha256
    factor = 0.5 * (2.0 if spelling == "kohya" else 1.0)
    for part in ("unet", "language_model", "text_encoder"):
        before, after = (dict(source.load(part).named_modules()) for source in (plain, merged))
        for name, layer in before.items():
            if not isinstance(getattr(layer, "weight", None), torch.Tensor):
                continue
            weight, found = layer.weight, after[name].weight
            if (part, name) not in halves:
                assert torch.equal(weight, found)
                continue
            turned = type(layer).__name__ == "Conv1D"
            wanted = expected(weight.T if turned else weight, halves[part, name], factor)
            assert relative_error(found.numpy(), (wanted.T if turned else wanted).numpy()) < 1e-6
            assert relative_error(found.numpy(), weight.numpy()) > 1e-2


@pytest.mark.parametrize("config", [{"lora_alpha": 12}, {"lora_alpha": 12, "use_rslora": True}])
def test_pefts_own_folder(
    config: dict[str, Any], halves: Halves, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """A UNet's adapter as peft saves it: a prefix of its own, and alpha in a file beside."""
    unet = {f"base_model.model.{name}": pair for (part, name), pair in halves.items() if part == "unet"}
    keys = {
        f"{name}.lora_{side}.weight": half for name, pair in unet.items() for side, half in zip("AB", pair, strict=True)
    }
    save_file(keys, tmp_path / "adapter_model.safetensors")
    first = next(name for part, name in halves if part == "unet")
    pattern = {"alpha_pattern": {first: 6}}
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, **pattern, "r": RANK}))
    plain, merged = (Checkpoint(checkpoint("plain"), "plain", loras=loras) for loras in ([], [str(tmp_path)]))
    before, after = (dict(source.load("unet").named_modules()) for source in (plain, merged))
    rank = RANK**0.5 if config.get("use_rslora") else RANK
    for (part, name), pair in halves.items():
        if part == "unet":
            wanted = expected(before[name].weight, pair, (6 if name == first else 12) / rank)
            assert relative_error(after[name].weight.numpy(), wanted.numpy()) < 1e-6


@pytest.mark.parametrize("part", ["unet.", ""])
def test_what_diffusers_writes_into_the_file(
    part: str, halves: Halves, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    unet = {name: pair for (own, name), pair in halves.items() if own == "unet"}
    sides = {name: dict(zip("AB", pair, strict=True)) for name, pair in unet.items()}
    keys = {f"{part}{name}.lora_{side}.weight": half for name in sides for side, half in sides[name].items()}
    told = json.dumps({f"{part}lora_alpha": 12, f"{part}r": RANK, f"{part}alpha_pattern": {}})
    save_file(keys, tmp_path / "pytorch_lora_weights.safetensors", {"lora_adapter_metadata": told})
    plain, merged = (Checkpoint(checkpoint("plain"), "plain", loras=loras) for loras in ([], [str(tmp_path)]))
    before, after = (dict(source.load("unet").named_modules()) for source in (plain, merged))
    for name, pair in unet.items():
        wanted = expected(before[name].weight, pair, 12 / RANK)
        assert relative_error(after[name].weight.numpy(), wanted.numpy()) < 1e-6


def test_a_bundle_of_two_equals_the_reference_with_merged_weights(
    halves: Halves, checkpoint: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    save_file(dict(spelled(halves, "diffusers")), one)
    save_file(dict(spelled({key: pair for key, pair in halves.items() if key[0] == "unet"}, "kohya")), two)
    arguments = ["build", "--checkpoint", str(checkpoint("plain")), "--out", str(tmp_path / "b")]
    assert main([*arguments, "--lora", f"{one}:0.7", "--lora", str(two)]) == 0
    reference = load_reference(checkpoint("plain"))
    with torch.no_grad():
        for (part, name), pair in halves.items():
            module = getattr(reference, part)
            layer = (module.transformer if part == "language_model" else module).get_submodule(name)
            turned = type(layer).__name__ == "Conv1D"
            weight = layer.weight.T if turned else layer.weight
            wanted = expected(weight, pair, 0.7 + (2.0 if part == "unet" else 0.0))
            layer.weight.copy_(wanted.T if turned else wanted)
    call = {"num_inference_steps": 3, "audio_length_in_s": 0.3}
    theirs = reference("rain", generator=torch.Generator().manual_seed(3), **call).audios
    ours = AudioLDM2Pipeline.from_pretrained(tmp_path / "b", "cpu", backend="onnxruntime")("rain", seed=3, **call)
    assert relative_error(ours.audios, np.asarray(theirs)) < 1e-3
    made_from = Bundle.read(tmp_path / "b").manifest.checkpoint
    assert [(Path(lora.path).name, lora.scale) for lora in made_from.loras] == [(one.name, 0.7), (two.name, 1.0)]
    assert f"--lora {one}:0.7 --lora {two}" in Bundle.read(tmp_path / "b").rebuild_command
    capsys.readouterr()
    assert main(["verify", str(tmp_path / "b")]) == 0
    assert main(["inspect", str(tmp_path / "b")]) == 0
    assert "one.safetensors, scale 0.7" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (
            {"unet.nowhere.lora_A.weight": (3, 4), "unet.nowhere.lora_B.weight": (4, 3)},
            ["unet.nowhere", "another base"],
        ),
        ({"unet.conv_in.lora_A.weight": (3, 4, 3, 3), "unet.conv_in.lora_B.weight": (9, 3, 1, 1)}, ["another base"]),
        ({"unet.conv_in.lora_A.weight": (3, 4), "unet.conv_in.lora_B.weight": (9, 2)}, ["no common rank"]),
        ({"unet.conv_in.lora_A.weight": (3, 4)}, ["lacks the up half of unet.conv_in"]),
        ({"unet.conv_in.weight": (3, 4)}, ["none of a LoRA's", "unet.conv_in.weight"]),
        ({"text_encoder_3.x.lora_A.weight": (3, 4)}, ["lacks the up half of unet.text_encoder_3.x"]),
        ({"lora_te2_x.lora_down.weight": (3, 4)}, ["lacks the up half of text_encoder_2.x"]),
        ({"unet.conv_in.lora_magnitude_vector": (3,)}, ["none of a LoRA's"]),
        ({}, ["is empty"]),
    ],
)
def test_wrong_files(
    keys: dict[str, tuple[int, ...]], words: list[str], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    save_file({key: torch.randn(shape) for key, shape in keys.items()}, tmp_path / "it.safetensors")
    with raises_line(CheckpointError, "it.safetensors", *words):
        source = Checkpoint(checkpoint("plain"), "plain", loras=[str(tmp_path / "it.safetensors")])
        build(source, tmp_path / "b", report=lambda _: None)
    assert not (tmp_path / "b").exists()


def test_numbers_that_are_none(halves: Halves, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    keys = dict(spelled(halves, "diffusers"))
    key = next(iter(keys))
    keys[key] = keys[key].clone()
    keys[key].view(-1)[3] = float("nan")
    save_file(keys, tmp_path / "it.safetensors")
    with raises_line(CheckpointError, "NaN", key.partition(".lora")[0]):
        Checkpoint(checkpoint("plain"), "plain", loras=[str(tmp_path / "it.safetensors")])


def test_of_a_family_that_lacks_the_part(halves: Halves, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    save_file(dict(spelled(halves, "kohya")), tmp_path / "it.safetensors")
    with raises_line(CheckpointError, "it.safetensors"):
        Checkpoint(checkpoint("audioldm"), "it", loras=[str(tmp_path / "it.safetensors")]).load("unet")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nowhere.safetensors", ["does not exist"]),
        ("it.bin", ["no safetensors file"]),
        ("it.safetensors", ["cannot be read"]),
        ("it.safetensors:0", ["other than 0"]),
        ("it.safetensors:nan", ["other than 0"]),
        ("it.safetensors:1e9", ["other than 0"]),
        (".", ["is a folder"]),
    ],
)
def test_wrong_places(
    text: str, words: list[str], checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("it.bin", "it.safetensors"):
        Path(name).write_bytes(b"\x80\x04nothing")
    with raises_line(CheckpointError, "--lora", *words):
        Checkpoint(checkpoint("plain"), "plain", loras=[text])
