"""What is wrong with a checkpoint is found before anything is traced, and what only looks unusual is accepted."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from export.__main__ import main
from export.checkpoint import Checkpoint
from export.components import COMPONENTS
from export.consistency import check_consistency, try_components
from export.errors import CheckpointError
from export.families import AUDIOLDM2
from export.weights import WEIGHTED
from tests.unit.helpers import raises_line
from tests.unit.test_weights import POINTER

LEVELS = [[None, 48, 64]] * 4  # as the small checkpoint "plain" has them


def test_the_hub_is_asked_for_the_weights_of_every_module() -> None:
    assert tuple(AUDIOLDM2.modules) == WEIGHTED


@pytest.fixture(scope="module")
def original(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that tests alter and put right again: to copy it for each would take longer than the tests."""
    return Path(shutil.copytree(checkpoint("plain"), tmp_path_factory.mktemp("altered") / "checkpoint"))


@pytest.fixture
def altered(original: Path, tmp_path: Path) -> Path:
    """A checkpoint of its own; the weights are links."""
    folder = tmp_path / "checkpoint"
    for path in original.rglob("*"):
        target = folder / path.relative_to(original)
        if path.suffix == ".safetensors":
            target.symlink_to(path)
        elif path.is_dir():
            target.mkdir(parents=True)
        else:
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)
    return folder


def check(folder: Path) -> None:
    check_consistency(Checkpoint(folder, "x"))


def rewrite(path: Path, remove: str | None = None, **fields: object) -> None:
    content = {**json.loads(path.read_text()), **fields}
    content.pop(remove, None)
    path.write_text(json.dumps(content))


def test_the_checkpoint_itself_is_consistent(altered: Path) -> None:
    check(altered)


# field by field: values that it cannot have, and words of the message
FIELDS: list[tuple[str, str, list[Any]]] = [
    ("unet", "sample_size", [None, 0, -1, "256", [], [0], 2.5, True, 10**6, 10**12]),
    ("unet", "in_channels", [None, 0, "8", 4]),
    ("unet", "out_channels", [0, "8", 16]),
    ("unet", "block_out_channels", [[], [32], "32", [0, 0, 0, 0]]),
    ("unet", "down_block_types", [[], None, ["DownBlock2D"], 5]),
    ("unet", "up_block_types", [[], None, ["UpBlock2D"]]),
    ("unet", "cross_attention_dim", ["48", [48], 0, [[None, 48, 60]] * 4, [[None, 48, 48]] * 4]),
    ("vae", "scaling_factor", [0, -1, "0.18", None, True, float("nan"), float("inf"), 1e-9]),
    ("vae", "latent_channels", [0, 4, "8"]),
    ("vae", "block_out_channels", [[], None, [16] * 9]),
    ("vae", "out_channels", [0, 2]),
    ("vocoder", "sampling_rate", [0, -16_000, "16000", None]),
    ("vocoder", "model_in_dim", [0, -1, "64", 63]),
    ("vocoder", "upsample_rates", [[], None, [5, 4], [0, 4, 2, 2, 2], [5, 4, 2, 2, -2], "54222"]),
    ("vocoder", "upsample_kernel_sizes", [[], [16], [0, 16, 8, 4, 4]]),
    ("vocoder", "resblock_kernel_sizes", [[], [3], [3, 0]]),
    ("vocoder", "resblock_dilation_sizes", [[], [[1, 3]], [[], []], [1, 3]]),
    ("language_model", "n_embd", [0, -48, "48", 47]),
    ("language_model", "n_head", [0, 5]),
    ("language_model", "n_layer", [0, 10**9]),
    ("language_model", "n_positions", [0, 9]),
    ("language_model", "max_new_tokens", [0, "8", 2000]),
    ("projection_model", "text_encoder_dim", [0, 65]),
    ("projection_model", "text_encoder_1_dim", [0, 65]),
    ("projection_model", "langauge_model_dim", [0, 65]),
    ("text_encoder", "projection_dim", [0, "64", 65]),
    ("text_encoder", "text_config", [[], "x"]),
    ("text_encoder_2", "d_model", [0, 65]),
    ("text_encoder_2", "vocab_size", [0, 100]),
]
ALTERED = [(part, field, value) for part, field, values in FIELDS for value in values]


@pytest.mark.parametrize(("part", "field", "value"), ALTERED, ids=lambda value: str(value)[:30])
def test_a_config_with_an_impossible_field_is_refused(part: str, field: str, value: Any, altered: Path) -> None:
    rewrite(altered / part / "config.json", **{field: value})
    with raises_line(CheckpointError, "x: ", part if value in (0, None, []) else ""):
        check(altered)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sampling_rate", 0),
        ("sampling_rate", "48000"),
        ("hop_length", 0),
        ("fft_window_size", 0),
        ("fft_window_size", 10**7),
        ("feature_size", 0),
        ("feature_size", 63),
        ("frequency_min", -1),
        ("frequency_min", 14_000),
        ("frequency_max", 0),
        ("frequency_max", 30_000),
        ("max_length_s", 0),
        ("max_length_s", 0.001),  # less than a window
        ("max_length_s", 60),  # more frames than the audio tower takes
        ("padding", "mirror"),
        ("truncation", "fusion"),
        ("feature_extractor_type", "WhisperFeatureExtractor"),
        ("feature_extractor_type", "Unheard"),
    ],
)
def test_a_feature_extractor_with_an_impossible_field_is_refused(field: str, value: Any, altered: Path) -> None:
    rewrite(altered / "feature_extractor" / "preprocessor_config.json", **{field: value})
    with raises_line(CheckpointError, "x: ", "feature_extractor"):
        check(altered)


@pytest.mark.parametrize(
    "fields",
    [
        {"num_train_timesteps": 0},
        {"num_train_timesteps": "1000"},
        {"beta_start": "0.1"},
        {"beta_end": None},
        {"beta_schedule": "unheard"},
        {"_class_name": "UnheardScheduler"},
    ],
    ids=str,
)
def test_a_scheduler_without_a_schedule_is_refused(fields: dict[str, Any], altered: Path) -> None:
    rewrite(altered / "scheduler" / "scheduler_config.json", **fields)
    with raises_line(CheckpointError, "x: ", "scheduler"):
        check(altered)


FILES = [
    "model_index.json",
    "feature_extractor/preprocessor_config.json",
    "scheduler/scheduler_config.json",
    "tokenizer_2/tokenizer.json",
    *(f"{part}/config.json" for part in AUDIOLDM2.modules),
]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, POINTER, None], ids=str)
@pytest.mark.parametrize("name", FILES)
def test_broken_files_are_refused(name: str, content: bytes | None, altered: Path) -> None:
    if content is None:
        (altered / name).unlink()
    else:
        (altered / name).write_bytes(content)
    with raises_line(CheckpointError, "x: ", name.split("/")[0]):
        check(altered)


@pytest.mark.parametrize("part", ["tokenizer", "tokenizer_2", "unet", "vocoder", "scheduler", "feature_extractor"])
def test_a_missing_folder_is_called_missing(
    part: str, altered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(altered / part)
    assert main(["build", "--checkpoint", str(altered), "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert part in line
    assert "missing" in line
    assert printed.out == ""  # no module was built
    assert not (tmp_path / "out").exists()


def test_truncated_weights_are_found_before_anything_is_built(
    altered: Path, original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = altered / "vocoder" / "model.safetensors"
    path.unlink()
    path.write_bytes((original / "vocoder" / "model.safetensors").read_bytes()[:-1000])
    assert main(["build", "--checkpoint", str(altered), "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert "vocoder" in line
    assert "incomplete" in line
    assert printed.out == ""


def edit_weights(folder: Path, part: str, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    (path,) = (folder / part).glob("*.safetensors")
    weights = load_file(path)
    edit(weights)
    path.unlink()
    save_file(weights, path, metadata={"format": "pt"})


LORA = "down_blocks.1.attentions.0.transformer_blocks.0.attn1."


@pytest.mark.parametrize(
    ("part", "keys"),
    [
        ("unet", [f"{LORA}to_q.lora_A.weight", f"{LORA}to_q.lora_B.weight"]),
        ("unet", [f"{LORA}processor.to_q_lora.down.weight", f"{LORA}processor.to_q_lora.up.weight"]),
        ("text_encoder", ["text_model.encoder.layer.9.output.dense.weight"]),
        ("text_encoder_2", ["encoder.block.9.layer.0.SelfAttention.q.weight"]),
        ("language_model", ["transformer.h.9.attn.c_attn.weight"]),
        ("projection_model", ["projection_2.weight"]),
        ("vae", ["decoder.more.weight"]),
        ("vocoder", ["upsampler.9.weight"]),
    ],
)
def test_weights_that_nothing_uses_are_an_error(part: str, keys: list[str], altered: Path) -> None:
    edit_weights(altered, part, lambda weights: weights.update({key: torch.randn(4, 4) for key in keys}))
    loose = "LoRA" if "lora" in keys[0] else "config"
    with raises_line(CheckpointError, f"{part} holds {len(keys)} weights", keys[0].removeprefix("transformer."), loose):
        Checkpoint(altered, "x").load(part)


@pytest.mark.parametrize(
    ("part", "keys"),
    [
        ("text_encoder", ["text_model.embeddings.position_ids"]),
        ("text_encoder_2", ["decoder.block.0.layer.0.SelfAttention.q.weight", "lm_head.weight"]),
        ("language_model", ["transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias", "lm_head.weight"]),
        ("language_model", ["transformer.wpe.position_ids"]),
    ],
)
def test_what_published_checkpoints_hold_besides_is_no_error(part: str, keys: list[str], altered: Path) -> None:
    edit_weights(altered, part, lambda weights: weights.update({key: torch.ones(1, 514) for key in keys}))
    assert Checkpoint(altered, "x").load(part) is not None


def test_the_older_names_of_a_vaes_attention_are_known(altered: Path) -> None:
    expected = Checkpoint(altered, "x").load("vae").state_dict()
    older = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}
    renamed = 0

    def rename(weights: dict[str, torch.Tensor]) -> None:
        nonlocal renamed
        for key in [key for key in weights if ".attentions.0." in key]:
            for new, old in older.items():
                if new in key:
                    weights[key.replace(new, old)] = weights.pop(key)
                    renamed += 1

    edit_weights(altered, "vae", rename)
    assert renamed == 16
    loaded = Checkpoint(altered, "x").load("vae").state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in expected.items())


@pytest.mark.parametrize("name", ["pytorch_lora_weights.safetensors", "adapter_model.bin"])
def test_a_lora_beside_the_weights_is_not_dropped_without_a_word(name: str, altered: Path) -> None:
    (altered / "unet" / name).write_bytes(b"weights")
    with raises_line(CheckpointError, "unet has a LoRA beside its weights", name):
        check(altered)


def test_the_only_variant_is_taken_and_said(altered: Path, caplog: pytest.LogCaptureFixture) -> None:
    (path,) = (altered / "vae").glob("*.safetensors")
    path.rename(path.with_name("diffusion_pytorch_model.fp16.safetensors"))
    check(altered)
    assert [record.getMessage() for record in caplog.records] == [
        "there are no weights but those of one variant for vae (fp16): they are used"
    ]
    caplog.clear()
    check_consistency(Checkpoint(altered, "x", variant="fp16"))
    assert caplog.records == []
    with raises_line(CheckpointError, "vae has weights in the variants fp16", "'bf16'", "--variant"):
        check_consistency(Checkpoint(altered, "x", variant="bf16"))


def test_a_variant_that_no_part_has_is_refused(
    altered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", "--checkpoint", str(altered), "--variant", "fp16", "--out", str(tmp_path / "out")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "no part has weights of the variant 'fp16'" in line


def test_a_weight_that_is_no_number_is_found_before_anything_is_traced(altered: Path) -> None:
    edit_weights(altered, "vae", lambda weights: weights["decoder.conv_out.weight"].fill_(float("nan")))
    with raises_line(CheckpointError, "vae has NaN", "decoder.conv_out.weight"):
        try_components(Checkpoint(altered, "x"), ["vae_decoder"])


def test_a_config_that_no_module_can_have_is_found_by_running_it_once(altered: Path) -> None:
    rewrite(altered / "unet" / "config.json", norm_num_groups=7)
    check(altered)
    with raises_line(CheckpointError, "unet cannot be loaded"):
        try_components(Checkpoint(altered, "x"), ["unet"])


@pytest.mark.parametrize(
    "name", ["TokenizersBackend", "PreTrainedTokenizerFast", "RobertaTokenizerFast", "T5TokenizerFast"]
)
def test_tokenizers_are_asked_what_they_do_and_not_their_names(name: str, altered: Path) -> None:
    before = {part: Checkpoint(altered, "x").tokenizer(part)[0] for part in ("tokenizer", "tokenizer_2")}
    for part in before:
        rewrite(altered / "model_index.json", **{part: ["transformers", name]})
        if name in ("TokenizersBackend", "PreTrainedTokenizerFast"):
            rewrite(altered / part / "tokenizer_config.json", tokenizer_class=name)
    check(altered)
    loaded = Checkpoint(altered, "x")
    for part, spec in before.items():
        assert loaded.tokenizer(part)[0].max_length == spec.max_length
        assert loaded.tokenizer(part)[0].pad_token_id == spec.pad_token_id


def test_a_feature_extractor_inside_of_a_processor(altered: Path) -> None:
    path = altered / "feature_extractor" / "preprocessor_config.json"
    expected = Checkpoint(altered, "x").feature_extractor()
    nested = {"processor_class": "ClapProcessor", "feature_extractor": json.loads(path.read_text())}
    path.with_name("processor_config.json").write_text(json.dumps(nested))
    path.unlink()
    rewrite(altered / "model_index.json", feature_extractor=["transformers", "ClapProcessor"])
    check(altered)
    assert Checkpoint(altered, "x").feature_extractor() == expected


@pytest.mark.parametrize(
    ("part", "entry"),
    [
        ("unet", ["diffusers", "UNet2DConditionModel"]),
        ("text_encoder", ["transformers", "ClapTextModelWithProjection"]),
        ("text_encoder_2", ["transformers", "T5ForConditionalGeneration"]),
        ("language_model", ["transformers", "LlamaModel"]),
        ("vocoder", ["transformers", "UnheardModel"]),
        ("feature_extractor", ["transformers", "WhisperFeatureExtractor"]),
        ("scheduler", ["diffusers", "FlowMatchEulerDiscreteScheduler"]),
        ("tokenizer", [None, None]),
        ("tokenizer_2", None),
        ("vae", "AutoencoderKL"),
    ],
)
def test_unknown_architectures_are_refused(part: str, entry: Any, altered: Path) -> None:
    rewrite(altered / "model_index.json", **{part: entry})
    with raises_line(CheckpointError, "x: model_index.json names", part):
        check(altered)


def test_weights_of_another_size_are_named(altered: Path) -> None:
    for part, key in (("vae", "decoder.conv_out.weight"), ("vocoder", "conv_post.bias")):
        edit_weights(altered, part, lambda weights, key=key: weights.update({key: torch.randn(5, 5)}))
        with raises_line(CheckpointError, f"{part} has 1 weights of other shapes", key, "(5, 5)"):
            Checkpoint(altered, "x").load(part)


def test_a_config_of_another_architecture_is_refused(altered: Path) -> None:
    rewrite(altered / "language_model" / "config.json", model_type="llama")
    with raises_line(CheckpointError, "language_model/config.json", "llama", "GPT2Model"):
        check(altered)


@pytest.mark.parametrize(
    ("part", "declared", "expected"),
    [
        ("tokenizer", 514, 512),  # RoBERTa counts positions from 2 on
        ("tokenizer", 10**30, 512),
        ("tokenizer", None, 512),
        ("tokenizer", 77, 77),
        ("tokenizer_2", 12, 12),
        ("tokenizer_2", 10**30, 1024 - 5 - 7),  # GPT2's positions, less the projection's and the new ones
        ("tokenizer_2", 4096, 1024 - 5 - 7),
    ],
)
def test_texts_are_cut_where_their_readers_end(part: str, declared: int | None, expected: int, altered: Path) -> None:
    rewrite(altered / part / "tokenizer_config.json", model_max_length=declared)
    if declared is None:
        rewrite(altered / part / "tokenizer_config.json", remove="model_max_length")
    check(altered)
    assert Checkpoint(altered, "x").tokenizer(part)[0].max_length == expected


@pytest.mark.parametrize(
    ("path", "fields", "words"),
    [
        ("text_encoder/config.json", {"vocab_size": 400}, ["tokenizer has ids up to 432", "400 embeddings"]),
        ("text_encoder_2/config.json", {"vocab_size": 200}, ["tokenizer_2 has ids up to 250", "200 embeddings"]),
        ("text_encoder/config.json", {"max_position_embeddings": 2}, ["no text of tokenizer fits"]),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 0}, ["tokenizer has model_max_length 0"]),
        ("tokenizer/tokenizer_config.json", {"model_max_length": "long"}, ["model_max_length 'long'"]),
        (
            "tokenizer/tokenizer_config.json",
            {"pad_token": None, "tokenizer_class": "TokenizersBackend"},
            ["tokenizer has no pad token"],
        ),
    ],
)
def test_tokenizers_that_their_readers_do_not_fit_are_refused(
    path: str, fields: dict[str, Any], words: list[str], altered: Path
) -> None:
    file = altered / path
    content = json.loads(file.read_text())
    (content["text_config"] if path == "text_encoder/config.json" else content).update(fields)
    file.write_text(json.dumps(content))
    with raises_line(CheckpointError, *words):
        check(altered)


@pytest.mark.parametrize("part", ["tokenizer", "tokenizer_2"])
def test_a_tokenizer_without_its_vocabulary_is_refused(part: str, altered: Path) -> None:
    """The library makes one of special tokens alone."""
    (altered / part / "tokenizer.json").unlink()
    with raises_line(CheckpointError, f"{part} has no vocabulary", "tokenizer.json"):
        check(altered)


@pytest.mark.parametrize(
    ("dims", "words"),
    [
        ([[None, 9, 9], *LEVELS[1:]], []),  # the first level of "plain" does not attend
        ([[None, 48, 64], [None, 9, 64], *LEVELS[2:]], ["width 9", "language_model"]),
        ([[None, 48, 64], [None, 48, 9], *LEVELS[2:]], ["width 9", "text_encoder_2"]),
        ([*LEVELS[:3], [None, 48, 48]], ["width 48", "text_encoder_2"]),  # the middle has the last level's
        ([*LEVELS[:3], [64]], ["width 64", "language_model"]),
    ],
)
def test_only_levels_that_attend_have_to_fit(dims: list[Any], words: list[str], altered: Path) -> None:
    rewrite(altered / "unet" / "config.json", cross_attention_dim=dims)
    if not words:
        check(altered)
        return
    with raises_line(CheckpointError, "unet attends", *words):
        check(altered)


def test_the_middle_attends_where_no_level_does(altered: Path) -> None:
    rewrite(
        altered / "unet" / "config.json",
        down_block_types=["DownBlock2D"] * 4,
        up_block_types=["UpBlock2D"] * 4,
        cross_attention_dim=[9, 9, 9, 48],
    )
    check(altered)
    rewrite(altered / "unet" / "config.json", cross_attention_dim=[48, 48, 48, 9])
    with raises_line(CheckpointError, "width 9"):
        check(altered)


@pytest.mark.parametrize(("part", "positions"), [("language_model", 40), ("language_model", 14), ("text_encoder", 5)])
def test_sizes_of_checks_stay_within_a_small_models_bounds(part: str, positions: int, altered: Path) -> None:
    field = "n_positions" if part == "language_model" else "max_position_embeddings"
    config = json.loads((altered / part / "config.json").read_text())
    inner = config if part == "language_model" else config["text_config"]
    before, inner[field] = inner[field], positions
    (altered / part / "config.json").write_text(json.dumps(config))

    def shorten(weights: dict[str, torch.Tensor]) -> None:
        for name, weight in weights.items():
            if weight.ndim and weight.shape[0] == before:  # the embeddings of positions
                weights[name] = weight[:positions].contiguous()
            elif weight.ndim and weight.shape[-1] == before:  # their numbers
                weights[name] = weight[..., :positions].contiguous()

    edit_weights(altered, part, shorten)
    checkpoint = Checkpoint(altered, "x")
    check_consistency(checkpoint)
    component = COMPONENTS[part](checkpoint)
    for sizes in component.sizes:
        inputs = component.draw(sizes, torch.Generator().manual_seed(0))
        for name, spec in component.inputs.items():
            bounds = zip(inputs[name].shape, spec.min_shape, spec.max_shape, strict=True)
            assert all(low <= size <= (high or size) for size, low, high in bounds), (name, sizes)
        with torch.no_grad():
            component.module(*(inputs[name] for name in component.inputs))
