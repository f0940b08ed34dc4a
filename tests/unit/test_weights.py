"""Which files are taken for a module's weights, and which damage their headers show."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from export.checkpoint import Checkpoint
from export.errors import CheckpointError
from export.weights import Weights, choose_weights

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n"
STRAY = ["config.json", "optimizer.bin", "training_args.bin", "scheduler.bin", "rng_state.bin", "model.onnx"]


@pytest.mark.parametrize(
    ("names", "variant", "expected"),
    [
        (["model.safetensors", "pytorch_model.bin"], None, ["model.safetensors"]),
        (["diffusion_pytorch_model.bin"], None, ["diffusion_pytorch_model.bin"]),
        (["model.fp16.safetensors"], None, ["model.fp16.safetensors"]),
        (["model.fp16.safetensors", "pytorch_model.bin"], None, ["pytorch_model.bin"]),
        (["model.fp16.safetensors", "model.safetensors"], "fp16", ["model.fp16.safetensors"]),
        (["pytorch_model.fp16.bin", "model.safetensors"], "fp16", ["pytorch_model.fp16.bin"]),
        (["model.fp16.safetensors", "model.safetensors"], "bf16", ["model.safetensors"]),
        (
            ["diffusion_pytorch_model.non_ema.safetensors", "diffusion_pytorch_model.safetensors"],
            None,
            ["diffusion_pytorch_model.safetensors"],
        ),
        (
            [
                "model.safetensors.index.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "model.fp16-00001-of-00001.safetensors",
            ],
            None,
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ),
        (
            [
                "model.safetensors",
                "model.safetensors.index.fp16.json",
                "model.fp16-00001-of-00002.safetensors",
                "model.fp16-00002-of-00002.safetensors",
            ],
            "fp16",
            ["model.fp16-00001-of-00002.safetensors", "model.fp16-00002-of-00002.safetensors"],
        ),
        (
            [
                "diffusion_pytorch_model.safetensors.fp16.index.json",
                "diffusion_pytorch_model-00001-of-00002.fp16.safetensors",
                "diffusion_pytorch_model-00002-of-00002.fp16.safetensors",
            ],
            None,
            [
                "diffusion_pytorch_model-00001-of-00002.fp16.safetensors",
                "diffusion_pytorch_model-00002-of-00002.fp16.safetensors",
            ],
        ),
        (
            ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"],
            None,
            ["pytorch_model-00001-of-00001.bin"],
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_the_choice_among_published_names(names: list[str], variant: str | None, expected: list[str]) -> None:
    assert list(choose_weights(names + STRAY, variant, "unet").files) == expected


@pytest.mark.parametrize(
    ("names", "variant", "words"),
    [
        ([], None, ["no weights", ".safetensors", ".bin"]),
        (["model.fp16.safetensors", "model.bf16.safetensors"], None, ["bf16, fp16", "--variant"]),
        (["model.fp16.safetensors"], "bf16", ["variants fp16", "not 'bf16'"]),
        (["model-00001-of-00002.safetensors"], None, ["no weights", "model-00001-of-00002.safetensors"]),
    ],
)
def test_a_choice_that_cannot_be_made(names: list[str], variant: str | None, words: list[str]) -> None:
    with pytest.raises(CheckpointError) as caught:
        choose_weights(names + STRAY, variant, "x: unet")
    for word in ("x: unet has", *words):
        assert word in str(caught.value)


@pytest.fixture
def copy(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A checkpoint that a test may change."""
    return Path(shutil.copytree(checkpoint("one_width"), tmp_path / "checkpoint"))


def save(weights: dict[str, torch.Tensor], path: Path) -> None:
    if path.suffix == ".bin":
        torch.save(weights, path)
    else:
        save_file(weights, path, metadata={"format": "pt"})


def save_shards(weights: dict[str, torch.Tensor], files: list[Path], index: Path) -> None:
    keys = sorted(weights)
    shards = [keys[i :: len(files)] for i in range(len(files))]
    for path, shard in zip(files, shards, strict=True):
        save({key: weights[key] for key in shard}, path)
    listed = {key: path.name for path, shard in zip(files, shards, strict=True) for key in shard}
    index.write_text(json.dumps({"weight_map": listed}))


@pytest.mark.parametrize(
    ("names", "index"),
    [
        (["{stem}.fp16.{kind}"], None),
        (["{stem}-00001-of-00002.{kind}", "{stem}-00002-of-00002.{kind}"], "{stem}.{kind}.index.json"),
        (["{stem}.fp16-00001-of-00002.{kind}", "{stem}.fp16-00002-of-00002.{kind}"], "{stem}.{kind}.index.fp16.json"),
        (["{stem}-00001-of-00002.fp16.{kind}", "{stem}-00002-of-00002.fp16.{kind}"], "{stem}.{kind}.fp16.index.json"),
    ],
)
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("part", ["projection_model", "vocoder"])  # one of each library
def test_every_form_loads_the_same_weights(
    names: list[str], index: str | None, kind: str, part: str, copy: Path
) -> None:
    folder = copy / part
    expected = Checkpoint(copy, "x").load(part).state_dict()
    (original,) = folder.glob("*.safetensors")
    weights = load_file(original)
    original.unlink()
    for stray in STRAY[1:]:
        (folder / stray).write_bytes(b"no weights")
    stem = "diffusion_pytorch_model" if part == "projection_model" else "model" if kind[0] == "s" else "pytorch_model"
    files = [folder / name.format(stem=stem, kind=kind) for name in names]
    if index is None:
        save(weights, files[0])
    else:
        save_shards(weights, files, folder / index.format(stem=stem, kind=kind))
    checkpoint = Checkpoint(copy, "x")
    assert set(checkpoint.weights(part).files) == set(files)
    loaded = checkpoint.load(part).state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[key], value) for key, value in expected.items())


def test_the_variant_is_loaded_and_hashed_and_nothing_else_is(copy: Path) -> None:
    plain = Checkpoint(copy, "x")
    (original,) = (copy / "vae").glob("*.safetensors")
    halved = {key: value.half() for key, value in load_file(original).items()}
    save(halved, copy / "vae" / "diffusion_pytorch_model.fp16.safetensors")
    assert Checkpoint(copy, "x").weights_sha256 == plain.weights_sha256
    variant = Checkpoint(copy, "x", variant="fp16")
    assert variant.weights_sha256 != plain.weights_sha256
    name = "decoder.conv_in.weight"
    assert torch.equal(variant.load("vae").state_dict()[name], halved[name].float())
    assert not torch.equal(plain.load("vae").state_dict()[name], halved[name].float())
    before = variant.weights_sha256
    original.write_bytes(b"not read")
    assert Checkpoint(copy, "x", variant="fp16").weights_sha256 == before


def test_weights_that_are_links_into_a_cache(copy: Path) -> None:
    """As the hub's cache lays them out: the file's own name says nothing."""
    (original,) = (copy / "vae").glob("*.safetensors")
    blob = copy / "blobs" / "0123456789abcdef"
    blob.parent.mkdir()
    original.rename(blob)
    original.symlink_to(os.path.relpath(blob, original.parent))
    assert Checkpoint(copy, "x").load("vae") is not None
    blob.unlink()
    with pytest.raises(CheckpointError, match="vae lacks the file"):
        Checkpoint(copy, "x").weights("vae")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncated, ["damaged or incomplete", "download it again"]),
        (lambda path: path.write_bytes(b""), ["damaged or incomplete"]),
        (lambda path: path.write_bytes(path.read_bytes()[:5]), ["damaged or incomplete"]),
        (lambda path: path.write_bytes(b"<html>Too many requests</html>"), ["damaged or incomplete"]),
        (lambda path: path.write_bytes(POINTER), ["git-lfs", "git lfs pull"]),
    ],
)
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_damaged_files_are_found_by_their_headers(
    damage: Callable[[Path], object], words: list[str], kind: str, tmp_path: Path
) -> None:
    path = tmp_path / ("model.safetensors" if kind == "safetensors" else "pytorch_model.bin")
    save({"weight": torch.randn(64, 64)}, path)
    assert Weights.find(tmp_path, None, "x: unet").files == (path,)
    damage(path)
    with pytest.raises(CheckpointError) as caught:
        Weights.find(tmp_path, None, "x: unet")
    for word in ("x: unet", path.name, *words):
        assert word in str(caught.value)


def test_a_shard_or_an_index_that_is_not_whole(tmp_path: Path) -> None:
    files = [tmp_path / f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    index = tmp_path / "model.safetensors.index.json"
    save_shards({str(i): torch.randn(4) for i in range(7)}, files, index)
    assert Weights.find(tmp_path, None, "unet").files == tuple(files)
    files[1].unlink()
    with pytest.raises(CheckpointError, match=r"unet lacks the file .*model-00002-of-00003"):
        Weights.find(tmp_path, None, "unet")
    for broken in (
        "{",
        "[]",
        "{}",
        '{"weight_map": {}}',
        '{"weight_map": {"a": "../b.safetensors"}}',
        POINTER.decode(),
    ):
        index.write_text(broken)
        with pytest.raises(CheckpointError, match=r"^unet(:| cannot be loaded)"):
            Weights.find(tmp_path, None, "unet")
