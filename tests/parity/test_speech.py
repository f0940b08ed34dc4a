"""Speech checkpoints against the reference: ids, waveforms, GPT2 over hundreds of steps; and what is refused."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Model, VitsTokenizer

from export.__main__ import main
from export.build import _write_speech, build
from export.checkpoint import Checkpoint
from export.demo import PHONEMES
from export.parity import relative_error
from runtime import AudioLDM2Pipeline
from runtime.bundle import Bundle
from runtime.cli import main as cli
from runtime.errors import InputError, MissingDependencyError
from runtime.install import install_command
from runtime.text.speech import VitsTokenizer as OurTokenizer
from tests.checkpoints import SPEECH
from tests.parity.test_pipeline import AUDIBLE, SEEN, random_text, run_reference
from tests.unit.helpers import raises_line

CHARACTERS = ["_", *PHONEMES]
LIMIT = 60

# fields of VitsTokenizer, and the characters with their ids in order
TOKENIZERS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "as published": ({"phonemize": True, "add_blank": False}, CHARACTERS),
    "phonemes and blanks": ({"phonemize": True, "add_blank": True}, CHARACTERS),
    "phonemes of upper case": ({"phonemize": True, "normalize": False, "add_blank": False}, CHARACTERS),
    "letters": ({"phonemize": False, "add_blank": True}, CHARACTERS),
    "letters as they are": ({"phonemize": False, "normalize": False, "add_blank": False}, CHARACTERS),
    "a letter for the pad": ({"phonemize": False, "add_blank": True, "pad_token": "e"}, CHARACTERS),
    "a space for the pad": ({"phonemize": False, "add_blank": False, "pad_token": " "}, CHARACTERS),
    "Romanian": ({"phonemize": False, "add_blank": False, "language": "ron"}, [*CHARACTERS, "\u0163"]),
    "words in the vocabulary": ({"phonemize": False, "normalize": True}, [*CHARACTERS, "Th", "THE", "Dr. ", "SUN"]),
    "greedy added tokens": (
        {
            "phonemize": False,
            "normalize": False,
            "unk_token": "<u>",
            "pad_token": "<p>",
            "additional_special_tokens": ["<p>n"],
            "greedy": {"<u>": {"lstrip": True}, "<p>": {"rstrip": True}, "<p>n": {"lstrip": True, "rstrip": True}},
        },
        CHARACTERS,
    ),
}
TEXTS = (
    "wish you have a good day",
    "Dr. Smith paid $3.50 for 2 of THEM -- didn't he?",
    "",
    "  \n ",
    "...",
    "One line.\nAnother line;\n\nand a third",
    "naïve café, Straße, \u021bar\u0103 \u4f60\u597d",
    "what a <unk>  day _in_ the <u> <p>  <p>n SUN  ",
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng()


def random_line(rng: np.random.Generator) -> str:
    letters = [chr(code) for code in range(32, 127)] + list(" " * 20) + list("\u00e9\u00df\u021b\u2014\n\t_")
    words = ["<u>", "<p>", "<p>n", "<unk>", "THE", "Dr. "]
    return "".join(rng.choice(letters + words, int(rng.integers(1, 50))))


def both_tokenizers(
    base: Path, folder: Path, options: dict[str, Any], characters: list[str]
) -> tuple[VitsTokenizer, OurTokenizer]:
    """The reference's tokenizer and ours, from one checkpoint, which is `base` but for the tokenizer.

    "greedy" sets flags of added tokens there.
    """
    greedy = options.get("greedy", {})
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(characters)}))
    options = {"pad_token": "_", "model_max_length": LIMIT, **options}
    options.pop("greedy", None)
    VitsTokenizer(folder / "vocab.json", **options).save_pretrained(folder / "tokenizer_2")
    saved = json.loads((folder / "tokenizer_2" / "tokenizer_config.json").read_text())
    for token in saved["added_tokens_decoder"].values():
        token.update(greedy.get(token["content"], {}))
    (folder / "tokenizer_2" / "tokenizer_config.json").write_text(json.dumps(saved))
    for source in base.rglob("*.json"):  # the configs of all else
        target = folder / source.relative_to(base)
        if "tokenizer_2" not in target.parts:
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, target)
    spec = _write_speech(Checkpoint(folder, "x"), folder)
    return VitsTokenizer.from_pretrained(folder / "tokenizer_2"), OurTokenizer(folder / spec.file.name, spec)


def reference_row(tokenizer: VitsTokenizer, text: str) -> tuple[list[int], list[int]]:
    """Ids and mask as the reference pipeline makes them: padded and cut, the end id over the first 0."""
    inputs = tokenizer(text, padding="max_length", max_length=tokenizer.model_max_length, truncation=True)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    if 0 in ids:
        mask[ids.index(0)], ids[ids.index(0)] = 1, 182
    return ids, mask


@pytest.mark.parametrize("name", TOKENIZERS)
def test_ids_are_the_references(
    name: str, checkpoint: Callable[[str], Path], tmp_path: Path, rng: np.random.Generator
) -> None:
    reference, ours = both_tokenizers(checkpoint("phonemes"), tmp_path, *TOKENIZERS[name])
    drawn, lengths = [random_line(rng) for _ in range(120)], set()
    for text in (*TEXTS, *drawn, " ".join(drawn)):
        expected = reference_row(reference, text)
        if not expected[0]:  # the reference's pipeline fails on an empty row
            with raises_line(InputError, "transcription", "nothing to say"):
                ours.row(text)
            continue
        ids, mask = ours.row(text)
        assert ids.shape == mask.shape == (1, LIMIT)
        assert (ids[0].tolist(), mask[0].tolist()) == expected, repr(text)
        lengths.add(int(mask.sum()))
    assert len(lengths) > 5  # of many lengths, one of them cut
    assert LIMIT in lengths


def test_a_character_without_an_embedding_is_named(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """The reference fails with an index error there: the unknown token's id is beyond the text encoder's."""
    options = {"phonemize": False, "normalize": False, "add_blank": False}
    _, ours = both_tokenizers(
        checkpoint("phonemes"), tmp_path, options, [*CHARACTERS, *(chr(0x4E00 + i) for i in range(200))]
    )
    with raises_line(InputError, "transcription", "'%'"):
        ours.ids("all % off")
    assert len(ours.ids("off")) == 3


def test_what_is_missing_for_phonemes_is_named(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, ours = both_tokenizers(checkpoint("phonemes"), tmp_path, *TOKENIZERS["as published"])
    from phonemizer.backend.espeak import wrapper

    with monkeypatch.context() as patch:
        patch.setattr(wrapper, "_find_library", lambda _: None)
        sys.modules["phonemizer.phonemize"].clear_backends_cache()
        with raises_line(MissingDependencyError, "espeak-ng", "apt-get install espeak-ng"):
            ours.ids("say it")
    monkeypatch.setitem(sys.modules, "phonemizer", None)
    with raises_line(MissingDependencyError, "phonemizer", f"not installed: {install_command('tts')}"):
        ours.ids("say it")


@pytest.mark.parametrize("guidance", [3.5, 1.0])
@pytest.mark.parametrize("name", SPEECH)
def test_same_latents_same_speech(
    name: str,
    guidance: float,
    bundle: Callable[[str], Path],
    reference: Callable[[str], Any],
    rng: np.random.Generator,
) -> None:
    pipe = AudioLDM2Pipeline.from_pretrained(bundle(name))
    latents = rng.standard_normal((1, 8, 25, 16), np.float32)
    arguments: dict[str, Any] = {
        "prompt": random_text(rng, 7),
        "audio_length_in_s": 1.0,
        "num_inference_steps": 3,
        "guidance_scale": guidance,
    }
    says, other = random_text(rng, 4), random_text(rng, 4) + " hello"
    expected = run_reference(
        reference(name), latents=torch.from_numpy(latents), transcription=says, max_new_tokens=None, **arguments
    )
    actual = pipe(latents=latents, transcription=says, **arguments).audios
    assert np.isfinite(expected).all()
    assert np.sqrt((expected**2).mean()) > AUDIBLE
    error = relative_error(actual, expected)
    print(f"{name} guidance {guidance}: relative error {error:.1e}")
    assert error <= SEEN
    changed = relative_error(pipe(latents=latents, transcription=other, **arguments).audios, expected)
    print(f"another transcription changes it by {changed:.1e}")
    assert changed > 100 * SEEN


@pytest.mark.parametrize("name", SPEECH)
def test_lists_negative_prompts_and_new_tokens(
    name: str, bundle: Callable[[str], Path], reference: Callable[[str], Any], rng: np.random.Generator
) -> None:
    """A batch of the reference is its single runs here: all its rows have one length."""
    pipe, seed = AudioLDM2Pipeline.from_pretrained(bundle(name)), int(rng.integers(2**31))
    common: dict[str, Any] = {
        "prompt": [random_text(rng, 3), random_text(rng, 5)],
        "negative_prompt": [random_text(rng, 8), "noise"],
        "transcription": [random_text(rng, 2), random_text(rng, 5)],
        "max_new_tokens": 21,
        "audio_length_in_s": 0.7,
        "num_inference_steps": 2,
    }
    expected = run_reference(reference(name), seed, **common)
    for row, wanted in zip(pipe(seed=seed, **common).audios, expected, strict=True):
        assert relative_error(row, wanted) <= SEEN


@pytest.mark.parametrize("name", SPEECH)
def test_a_long_transcription_is_cut_as_the_reference_cuts_it(
    name: str, bundle: Callable[[str], Path], reference: Callable[[str], Any], rng: np.random.Generator, caplog: Any
) -> None:
    pipe, seed = AudioLDM2Pipeline.from_pretrained(bundle(name)), int(rng.integers(2**31))
    common: dict[str, Any] = {
        "prompt": "a voice",
        "transcription": random_text(rng, 30) + " zoom",
        "audio_length_in_s": 0.5,
        "num_inference_steps": 2,
    }
    expected = run_reference(reference(name), seed, **common)
    caplog.clear()
    assert relative_error(pipe(seed=seed, **common).audios, expected) <= SEEN
    cut = [record.getMessage() for record in caplog.records if record.name == "runtime.text.speech"]
    assert len(cut) == 1
    limit = SPEECH[name]["vits_tokenizer"]["model_max_length"]
    assert cut[0].startswith(f"the transcription is cut at {limit} tokens; dropped: '")
    assert cut[0].endswith("zoom'" if name == "letters" else "m'")


def test_512_new_tokens_equal_a_full_recompute(
    bundle: Callable[[str], Path], checkpoint: Callable[[str], Path], rng: np.random.Generator
) -> None:
    """Our cached loop against torch that sees the whole sequence at each step; the first row is all but masked."""
    pipe, rows, length, new = AudioLDM2Pipeline.from_pretrained(bundle("phonemes")), 2, 65, 512
    embeds = rng.standard_normal((rows, length, 48), np.float32)
    mask = np.ones((rows, length), np.int64)
    mask[0, 4:-1] = 0  # as a guided row: CLAP's token and the four ends
    mask[1, 30:-1] = 0
    actual = pipe._encoder.generate(embeds, mask, new)
    gpt2 = GPT2Model.from_pretrained(checkpoint("phonemes") / "language_model", attn_implementation="eager").eval()
    sequence, seen = torch.from_numpy(embeds), torch.from_numpy(mask)
    with torch.no_grad():
        for _ in range(new):
            state = gpt2(inputs_embeds=sequence, attention_mask=seen, use_cache=False).last_hidden_state[:, -1:]
            sequence, seen = torch.cat([sequence, state], 1), torch.cat([seen, torch.ones_like(seen[:, :1])], 1)
    expected = sequence[:, -new:].numpy()
    errors = [relative_error(actual[:, i], expected[:, i]) for i in (0, 7, new - 1)]
    print("relative error after 1, 8 and 512 tokens", *(f"{error:.1e}" for error in errors))
    assert relative_error(actual, expected) <= SEEN
    assert relative_error(expected[:, 100:200], expected[:, 300:400]) > 100 * SEEN  # it does not stand still
    with raises_line(InputError, "max_new_tokens is 961", "1024 positions", "at most 960"):
        pipe._encoder.generate(embeds, mask, 961)


@pytest.mark.parametrize(
    ("transcription", "fragments"),
    [
        (None, ["transcription is missing"]),
        (5, ["transcription has to be a str", "5"]),
        (["one", 2], ["transcription has to be a str"]),
        ([], ["transcription has to be"]),
        (["one", "two"], ["transcription has 2 texts", "prompt has 1"]),
    ],
)
def test_wrong_transcriptions_are_refused(
    transcription: Any, fragments: list[str], bundle: Callable[[str], Path]
) -> None:
    with raises_line(InputError, *fragments):
        AudioLDM2Pipeline.from_pretrained(bundle("letters"))("a voice", transcription=transcription)


def test_a_checkpoint_that_does_not_speak_refuses_a_transcription(bundle: Callable[[str], Path]) -> None:
    pipe = AudioLDM2Pipeline.from_pretrained(bundle("plain"))
    with raises_line(InputError, "transcription is for speech checkpoints only"):
        pipe("a voice", transcription="hello")
    for value in (0, -1, 1.5, True, "8"):
        with raises_line(InputError, "max_new_tokens"):
            pipe("a voice", max_new_tokens=value)


def test_the_command_line_speaks(
    bundle: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.wav"
    command = ["a voice", "--engines", str(bundle("letters")), "--output", str(out), "--steps", "1"]
    command += ["--duration", "0.5", "--quiet"]
    assert cli(command) == 1
    assert "transcription is missing" in capsys.readouterr().err
    assert cli([*command, "--transcription", "hello there", "--max-new-tokens", "20"]) == 0
    assert out.stat().st_size == 44 + 2 * 8000
    assert cli([*command, "--transcription", "hello there", "--max-new-tokens", "1000"]) == 1
    assert "--max-new-tokens is 1000" in capsys.readouterr().err


def test_the_vocabulary_is_part_of_the_bundle(bundle: Callable[[str], Path], tmp_path: Path) -> None:
    copy = shutil.copytree(bundle("letters"), tmp_path / "copy")
    speech = Bundle.read(copy).manifest.speech
    assert speech is not None
    assert (speech.end_token_id, speech.embedding_rows) == (182, 190)
    text = (copy / "vocabulary.json").read_text()
    (copy / "vocabulary.json").write_text(text.replace('"a":', '"b":', 1))
    with raises_line(Exception, "vocabulary.json was altered", "rebuild"):
        AudioLDM2Pipeline.from_pretrained(copy)
    (copy / "vocabulary.json").unlink()
    with raises_line(Exception, "vocabulary.json is missing", "rebuild"):
        Bundle.read(copy)


@pytest.fixture
def published(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A speech checkpoint that a test may change."""
    return Path(shutil.copytree(checkpoint("letters"), tmp_path / "checkpoint"))


def rewrite(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("file", "fields", "words"),
    [
        ("text_encoder_2/config.json", {"vocab_size": 38}, ["182", "38 ids"]),  # as ljspeech is published
        ("text_encoder_2/config.json", {"vocab_size": 182}, ["id 182", "182 ids"]),
        ("text_encoder_2/config.json", {"hidden_size": 44}, ["text_encoder_1_dim 40", "text_encoder_2 is 44 wide"]),
        ("text_encoder/config.json", {"projection_dim": 60}, ["text_encoder_dim 64", "text_encoder is 60 wide"]),
        ("projection_model/config.json", {"langauge_model_dim": 52}, ["language_model is 48 wide"]),
        ("projection_model/config.json", {"max_seq_length": 34}, ["34 tokens", "model_max_length 35"]),
        ("projection_model/config.json", {"max_seq_length": None}, ["None tokens", "model_max_length 35"]),
        ("tokenizer_2/tokenizer_config.json", {"model_max_length": 10**30}, ["tokenizer_2 has no model_max_length"]),
        ("tokenizer_2/tokenizer_config.json", {"model_max_length": 36}, ["35 tokens", "model_max_length 36"]),
        ("tokenizer_2/tokenizer_config.json", {"is_uroman": True}, ["is_uroman"]),
        ("tokenizer_2/vocab.json", {"\u00fc": 190}, ["ids up to 190", "has 190"]),
        ("tokenizer_2/vocab.json", {"_": 100}, ["add_blank", "id 0"]),
        ("unet/config.json", {"cross_attention_dim": [[None, 48, 64]] * 4}, ["width 64", "48", "40"]),
        ("model_index.json", {"tokenizer_2": ["transformers", "T5Tokenizer"]}, ["VitsModel", "not a pair"]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_inconsistent_checkpoints_are_refused(
    file: str,
    fields: dict[str, Any],
    words: list[str],
    published: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rewrite(published / file, **fields)
    assert main(["build", "--checkpoint", str(published), "--out", str(tmp_path / "out")]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(lines) == 1, lines
    for word in (*words, "error: "):
        assert word in lines[0], lines[0]
    assert not (tmp_path / "out").exists()


def test_positions_without_vits_are_refused(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    copy = shutil.copytree(checkpoint("plain"), tmp_path / "checkpoint")
    rewrite(copy / "projection_model" / "config.json", use_learned_position_embedding=False, max_seq_length=128)
    with raises_line(Exception, "works with a VITS text encoder only"):
        build(Checkpoint(copy, "copy"), tmp_path / "out")


def test_vits_parts_that_are_not_used_may_be_missing(published: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = published / "text_encoder_2" / "model.safetensors"
    weights = {key: value for key, value in load_file(path).items() if key.startswith("text_encoder.")}
    save_file(weights, path, metadata={"format": "pt"})
    assert Checkpoint(published, "x").load("text_encoder_2").config.vocab_size == 190
    weights.pop("text_encoder.embed_tokens.weight")
    save_file(weights, path, metadata={"format": "pt"})
    with raises_line(Exception, "text_encoder_2 lacks 1 weights", "embed_tokens"):
        Checkpoint(published, "x").load("text_encoder_2")
