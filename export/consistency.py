"""What is wrong with a checkpoint, found before anything is traced: damaged files, parts that do not fit each other."""

import gc
import logging
from collections.abc import Iterable, Iterator

import torch

from export.checkpoint import END_TOKEN_ID, PROJECTED_EXTRA, Checkpoint
from export.components import COMPONENTS
from export.errors import CheckpointError, one_line
from runtime.diffusion.schedulers import make_plan

logger = logging.getLogger(__name__)

_LONGEST_S = 3600.0  # that a checkpoint may make where a call does not say: more is a damaged sample_size
LABELS = ("simple_projection", "projection")  # how a UNet takes an embedding as its class
_TRIAL_STEPS = 10  # of the schedule that is made to see whether the scheduler's config gives one


def check_consistency(checkpoint: Checkpoint) -> None:
    """Raises CheckpointError with the first reason why this checkpoint cannot work.

    Configs, tokenizers and the headers of all weights are read, which takes a moment.
    """
    _ = checkpoint.configs
    if checkpoint.variant is not None and not checkpoint.has_variant():
        raise CheckpointError(f"{checkpoint.id}: no part has weights of the variant '{checkpoint.variant}'")
    only = {part: checkpoint.weights(part).names.variant for part in checkpoint.family.modules}
    if fallen_back := {part: name for part, name in only.items() if name not in (None, checkpoint.variant)}:
        listed = ", ".join(f"{part} ({name})" for part, name in fallen_back.items())
        logger.warning("there are no weights but those of one variant for %s: they are used", listed)
    for problem in _problems(checkpoint):
        raise CheckpointError(f"{checkpoint.id}: inconsistent checkpoint: {problem}")


def try_components(checkpoint: Checkpoint, names: Iterable[str]) -> None:
    """Load each component with all its weights, and run it once in torch: what fails here would fail half-way through.

    Raises CheckpointError. One module is in memory at a time.
    """
    for name in names:
        try:
            component = COMPONENTS[name](checkpoint)
            inputs = component.draw({**component.sizes[0], "batch": 1}, torch.Generator().manual_seed(0))
            with torch.no_grad():
                component.module(*(inputs[key] for key in component.inputs))
        except CheckpointError:
            raise
        except Exception as error:  # whatever a library says of a config that it cannot run
            raise CheckpointError(f"{checkpoint.id}: {name} does not run: {one_line(error)}") from error
        del component
        gc.collect()


def _problems(checkpoint: Checkpoint) -> Iterator[str]:
    if checkpoint.family.has_language_model:
        yield from _widths(checkpoint)
        yield from _attention(checkpoint)
    else:
        yield from _labels(checkpoint)
    yield from _audio(checkpoint)
    yield from _scheduler(checkpoint)
    if checkpoint.family.ranks:
        yield from _ranking(checkpoint)
    yield from _token_ids(checkpoint)
    if checkpoint.family.has_language_model:
        yield from _positions(checkpoint)
    if checkpoint.speaks:
        yield from _speech_ids(checkpoint)


def _widths(checkpoint: Checkpoint) -> Iterator[str]:
    projection, language_model = checkpoint.configs.projection_model, checkpoint.configs.language_model
    for field, width, source in (
        ("text_encoder_dim", checkpoint.configs.text_encoder.projection_dim, "text_encoder"),
        ("text_encoder_1_dim", checkpoint.text_width(), "text_encoder_2"),
        ("langauge_model_dim", checkpoint.language_width(), "language_model"),
    ):
        if getattr(projection, field) != width:
            yield f"projection_model has {field} {getattr(projection, field)}, {source} is {width} wide"
    if language_model.n_embd % language_model.n_head:
        yield f"language_model is {language_model.n_embd} wide, no multiple of its {language_model.n_head} heads"


def _labels(checkpoint: Checkpoint) -> Iterator[str]:
    """The UNet's classes, which are CLAP's embeddings of texts."""
    unet, width = checkpoint.configs.unet, checkpoint.configs.text_encoder.projection_dim
    if unet.class_embed_type not in LABELS:
        yield f"unet has class_embed_type {unet.class_embed_type!r}; supported: {', '.join(LABELS)}"
    elif unet.projection_class_embeddings_input_dim != width:
        yield (
            f"unet has projection_class_embeddings_input_dim {unet.projection_class_embeddings_input_dim}, "
            f"text_encoder is {width} wide"
        )


def _attention(checkpoint: Checkpoint) -> Iterator[str]:
    """The widths that the UNet attends to, at the levels that attend: the middle has the last level's."""
    unet = checkpoint.configs.unet
    levels = len(unet.block_out_channels)
    dims = unet.cross_attention_dim
    by_level = dims if isinstance(dims, tuple) else (dims,) * levels
    if not levels == len(unet.down_block_types) == len(unet.up_block_types) == len(by_level):
        yield (
            f"unet has {levels} block_out_channels, {len(unet.down_block_types)} down_block_types, "
            f"{len(unet.up_block_types)} up_block_types and {len(by_level)} entries of cross_attention_dim"
        )
        return
    blocks = zip(unet.down_block_types, reversed(unet.up_block_types), by_level, strict=True)
    attended = [dim for down, up, dim in blocks if "CrossAttn" in down or "CrossAttn" in up]
    language, text = checkpoint.language_width(), checkpoint.text_width()
    for dim in (*attended, by_level[-1]):
        for place, width in enumerate(dim if isinstance(dim, tuple) else (dim,)):
            # the reference gives the first two attentions of a level GPT2's states, the others the second text's
            expected, source = (language, "language_model") if place <= 1 else (text, "text_encoder_2")
            if width is not None and width != expected:
                yield (
                    f"unet attends to states of width {width} where it gets those of {source}, which are {expected} "
                    f"wide (language_model {language}, text_encoder_2 {text})"
                )


def _audio(checkpoint: Checkpoint) -> Iterator[str]:
    unet, vae, vocoder = checkpoint.configs.unet, checkpoint.configs.vae, checkpoint.configs.vocoder
    if not unet.in_channels == unet.out_channels == vae.latent_channels:
        yield (
            f"unet takes {unet.in_channels} channels and gives {unet.out_channels}, vae has {vae.latent_channels} "
            "latent_channels: they have to be equal"
        )
    if vae.out_channels != 1:
        yield f"vae has {vae.out_channels} out_channels, a mel spectrogram is 1"
    for one, other in (
        ("upsample_rates", "upsample_kernel_sizes"),
        ("resblock_kernel_sizes", "resblock_dilation_sizes"),
    ):
        first, second = len(getattr(vocoder, one)), len(getattr(vocoder, other))
        if first != second:
            yield f"vocoder has {first} {one} and {second} {other}"
    audio = checkpoint.audio()
    default_s = audio.default_duration_s
    if default_s > _LONGEST_S:
        yield f"unet's sample_size is {default_s:.0f} s of audio, at most {_LONGEST_S:.0f} s can be"


def _scheduler(checkpoint: Checkpoint) -> Iterator[str]:
    config = checkpoint.scheduler()
    try:
        make_plan(config, min(_TRIAL_STEPS, config.get("num_train_timesteps", _TRIAL_STEPS)))
    except Exception as error:  # any type may stand in any field
        yield f"scheduler_config.json gives no schedule: {one_line(error)}"


def _ranking(checkpoint: Checkpoint) -> Iterator[str]:
    """CLAP's audio tower, which ranks waveforms, against what the feature extractor makes of them."""
    spec, tower = checkpoint.feature_extractor(), checkpoint.configs.text_encoder.audio_config
    if spec.mel_bins != tower.num_mel_bins or spec.frames > tower.max_frames:
        yield (
            f"feature_extractor makes {spec.frames} frames of {spec.mel_bins} mel bins, text_encoder takes at most "
            f"{tower.max_frames} of {tower.num_mel_bins}"
        )


def _token_ids(checkpoint: Checkpoint) -> Iterator[str]:
    """The tokenizers' ids, against the embeddings of what reads them."""
    modules = checkpoint.configs
    readers = {"tokenizer": ("text_encoder", modules.text_encoder.text_config.vocab_size)}
    if "tokenizer_2" in checkpoint.family.tokenizers.values() and not checkpoint.speaks:
        readers["tokenizer_2"] = ("text_encoder_2", modules.text_encoder_2.vocab_size)
    for part, (encoder, rows) in readers.items():
        highest, (spec, _) = checkpoint.highest_token_id(part), checkpoint.tokenizer(part)
        if highest >= rows:
            yield f"{part} has ids up to {highest}, {encoder} has {rows} embeddings"
        if spec.max_length < 1:
            yield f"no text of {part} fits into the positions that text_encoder and language_model have"


def _positions(checkpoint: Checkpoint) -> Iterator[str]:
    """Numbers of tokens, against the positions of what reads them."""
    modules, speaks = checkpoint.configs, checkpoint.speaks
    tokens, language_model, projection = checkpoint.text_tokens(), modules.language_model, modules.projection_model
    needed = tokens + PROJECTED_EXTRA + language_model.max_new_tokens - 1
    if needed > language_model.n_positions:
        yield f"language_model has n_positions {language_model.n_positions}, text and new embeddings take {needed}"
    if projection.use_learned_position_embedding is not None:  # the reference's own test: False counts as well
        if not speaks:
            yield "projection_model has a position embedding, which works with a VITS text encoder only"
        elif projection.max_seq_length != tokens:
            yield (
                f"projection_model has positions for {projection.max_seq_length} tokens, tokenizer_2 pads to "
                f"model_max_length {tokens}"
            )


def _speech_ids(checkpoint: Checkpoint) -> Iterator[str]:
    rows = checkpoint.configs.text_encoder_2.vocab_size
    if rows <= END_TOKEN_ID:
        yield (
            f"the pipeline ends a transcription with id {END_TOKEN_ID}, text_encoder_2 has {rows} ids: another text "
            "encoder than it was trained with"
        )
    speech, vocabulary = checkpoint.speech()
    characters = vocabulary.characters
    highest = max(characters.values(), default=0)
    if max(highest, speech.pad_token_id) >= rows:
        yield f"tokenizer_2 has ids up to {max(highest, speech.pad_token_id)}, text_encoder_2 has {rows}"
    if speech.add_blank and 0 not in characters.values():
        yield "tokenizer_2 has add_blank, but no character of id 0, which is the blank"
