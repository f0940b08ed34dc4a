"""Parts of a checkpoint that do not fit each other, found in its configs before anything is built."""

from collections.abc import Iterator
from typing import Any

from export.checkpoint import Checkpoint
from export.errors import CheckpointError


def check_consistency(checkpoint: Checkpoint) -> None:
    """Raises CheckpointError with the first reason why this checkpoint cannot work."""
    for problem in _problems(checkpoint):
        raise CheckpointError(f"{checkpoint.id}: inconsistent checkpoint: {problem}")


def _problems(checkpoint: Checkpoint) -> Iterator[str]:
    yield from _widths(checkpoint)
    projection, tokens = checkpoint.config("projection_model"), checkpoint.text_tokens()
    if projection.get("use_learned_position_embedding") is not None:  # the reference's own test: False counts as well
        length = projection.get("max_seq_length")
        if not checkpoint.speaks:
            yield "projection_model has a position embedding, which works with a VITS text encoder only"
        elif length != tokens:
            yield f"projection_model has positions for {length} tokens, tokenizer_2 pads to model_max_length {tokens}"
    if checkpoint.speaks:
        yield from _ids(checkpoint)


def _widths(checkpoint: Checkpoint) -> Iterator[str]:
    projection = checkpoint.config("projection_model")
    clap, language_model = checkpoint.config("text_encoder")["projection_dim"], checkpoint.language_width()
    for field, width, source in (
        ("text_encoder_dim", clap, "text_encoder"),
        ("text_encoder_1_dim", checkpoint.text_width(), "text_encoder_2"),
        ("langauge_model_dim", language_model, "language_model"),
    ):
        if projection.get(field) != width:
            yield f"projection_model has {field} {projection.get(field)}, {source} is {width} wide"
    dims = checkpoint.config("unet").get("cross_attention_dim", 1280)
    for width in sorted(set(_numbers(dims)) - {language_model, checkpoint.text_width()}):
        yield (
            f"unet attends to states of width {width}, there are {language_model} (language_model) and "
            f"{checkpoint.text_width()} (text_encoder_2)"
        )


def _ids(checkpoint: Checkpoint) -> Iterator[str]:
    speech = checkpoint.speech()
    characters, rows = speech.vocabulary.characters, speech.embedding_rows
    highest = max(characters.values(), default=0)
    if speech.end_token_id >= rows:
        yield (
            f"the pipeline ends a transcription with id {speech.end_token_id}, text_encoder_2 has {rows} ids "
            f"(tokenizer_2 has {len(characters)} characters): another text encoder than it was trained with"
        )
    if max(highest, speech.pad_token_id) >= rows:
        yield f"tokenizer_2 has ids up to {max(highest, speech.pad_token_id)}, text_encoder_2 has {rows}"
    if speech.add_blank and 0 not in characters.values():
        yield "tokenizer_2 has add_blank, but no character of id 0, which is the blank"


def _numbers(dims: Any) -> Iterator[int]:
    """The numbers of a nested list."""
    if isinstance(dims, list | tuple):
        for dim in dims:
            yield from _numbers(dim)
    elif dims is not None:
        yield dims
