"""The studies: each gives rows of figures, ours beside the naive way, on held-out sounds and captions of the demo."""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from bench.edits.figures import Row, line, plot_variations
from bench.edits.joins import ranks, summary
from bench.figures import recognition
from bench.judge import Floats, load_judge
from bench.sounds import RealClips, real_clips
from export.demo.sounds import CLASSES, SAMPLE_RATE_HZ
from runtime import AudioLDM2Pipeline
from runtime.bundle import Bundle
from runtime.errors import InputError
from runtime.sound.mel import log_mels

SECONDS = 2.56  # that the demo was trained on
LONG_S, FURTHER_S = 20.48, 10.24
HOLE_S = (0.88, 1.68)
QUIETEST_MEL = -7.0  # natural logarithm: what is quieter, 60 dB below full scale or so, is not heard
QUIET = 0.01  # a sound whose rest is quieter gives nothing to go by
WEIGHTS = (0.25, 0.5, 1.0, 1.5, 2.0, 4.0)  # of the first of two sounds in a prompt
STRENGTHS = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Bench:
    """A pipeline, the judge, held-out clips, and what is asked of each."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.clips = real_clips(options.only or CLASSES, options.per_class, options.seed, SECONDS)
        self.others = _turned(self.clips, options.per_class)
        self.rng, self.judge = np.random.default_rng(options.seed), load_judge()
        bundle = Bundle.read(options.engines)
        self.pipeline, self._audio = AudioLDM2Pipeline(bundle), bundle.manifest.audio
        self._fixed = {"num_inference_steps": options.steps, "scheduler": options.scheduler}

    def make(self, captions: Sequence[str], sounds: Floats | None = None, turn: int = 0, **call: Any) -> Floats:
        """A waveform for each caption, (rows, samples), from its own sound, if any, and a seed of its own a turn."""
        made = []
        for i, caption in enumerate(captions):
            given = {} if sounds is None else {"audio": sounds[i], "sampling_rate": SAMPLE_RATE_HZ}
            made.append(self.pipeline(caption, seed=1000 * (turn + 1) + i, **self._fixed, **given, **call).audios[0])
        return np.stack(made)

    def one_after_another(self, captions: Sequence[str], seconds: float) -> Floats:
        """So much sound for each caption of calls of their own, behind each other: the naive way to a long one."""
        turns = range(round(seconds / SECONDS))
        return np.concatenate([self.make(captions, turn=turn, audio_length_in_s=SECONDS) for turn in turns], axis=1)

    def recognised(self, audios: Floats, names: Sequence[str]) -> Row:
        """The share of waveforms that are heard as what they were to be, with its interval."""
        found = recognition(self.judge.recognise(audios, SAMPLE_RATE_HZ), names, self.judge.classes)
        return {"rate": found["rate"], "interval": found["interval"]}

    def by_part(self, audios: Floats, names: Sequence[str], starts: Sequence[int]) -> list[float]:
        """The share that is recognised in each part of SECONDS."""
        length = round(SECONDS * SAMPLE_RATE_HZ)
        return [self.recognised(audios[:, start : start + length], names)["rate"] for start in starts]

    def likeness(self, audios: Floats, sounds: Floats) -> float:
        """How the log-mel spectrograms of two sets correlate, mean over waveforms."""
        mels = [log_mels(part, self._audio).reshape(len(part), -1) for part in (audios, sounds)]
        return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(*mels, strict=True)]))

    def apart(self, audios: Floats, sounds: Floats) -> float:
        """How far the log-mel spectrograms of two sets are apart at one peak level, mean magnitude in dB."""
        level = [part / np.abs(part).max(axis=1, keepdims=True) for part in (audios, sounds)]
        mels = [np.maximum(log_mels(part, self._audio), QUIETEST_MEL) for part in level]
        return float(np.abs(mels[0] - mels[1]).mean() * 20 / np.log(10))

    def joins(self, audios: Floats, places: Sequence[int]) -> dict[str, float]:
        """How many of these places are unusual, over all waveforms."""
        return summary([ranks(audio.astype(np.float64), place, self.rng) for audio in audios for place in places])


def round_trip(bench: Bench) -> Iterator[Row]:
    """Strength 0: the autoencoder and the vocoder alone."""
    clips = bench.clips
    made = bench.make(clips.captions, clips.audios, strength=0.0)
    yield {"name": "the sounds themselves", **bench.recognised(clips.audios, clips.names)}
    yield {
        "name": "through encoder, decoder and vocoder",
        **bench.recognised(made, clips.names),
        "likeness": bench.likeness(made, clips.audios),
        "log_mel_error": bench.apart(made, clips.audios),
    }


def variations(bench: Bench) -> Iterator[Row]:
    """A sound of one class, a prompt of another: how much of either is heard at every strength."""
    clips, others = bench.clips, bench.others
    for strength in STRENGTHS:
        made = bench.make(others.captions, clips.audios, strength=strength)
        yield {"strength": strength, "naive": False, **_both(bench, f"strength {strength:g}", made)}
    fresh = bench.make(others.captions, audio_length_in_s=SECONDS)
    for share in (0.25, 0.5, 0.75):
        name = f"naive: {1 - share:g} of the sound + {share:g} of a new one"
        yield {"share": share, "naive": True, **_both(bench, name, _mixed(clips.audios, fresh, share))}


def inpainting(bench: Bench) -> Iterator[Row]:
    """A hole is filled: the whole is to be heard as before, and nothing is to be heard at the borders."""
    first, last = (round(second * SAMPLE_RATE_HZ) for second in HOLE_S)
    clips = bench.clips.taken(np.abs(np.delete(bench.clips.audios, np.s_[first:last], 1)).max(axis=1) > QUIET)
    silent, pasted = clips.audios.copy(), clips.audios.copy()
    silent[:, first:last] = 0
    fresh = bench.make(clips.captions, audio_length_in_s=SECONDS)
    pasted[:, first:last] = fresh[:, first:last]
    made = bench.make(clips.captions, silent, inpaint_seconds=[HOLE_S])
    exact = np.array_equal(np.delete(made, np.s_[first:last], 1), np.delete(clips.audios, np.s_[first:last], 1))
    yield {"name": "made anew", "kept_exactly": exact, **_at(bench, made, clips.names, (first, last))}
    yield {"name": "naive: a piece of a new sound pasted", **_at(bench, pasted, clips.names, (first, last))}
    yield {"name": "a hole of silence", **_at(bench, silent, clips.names, (first, last))}
    yield {"name": "the sounds themselves", **_at(bench, clips.audios, clips.names, (first, last))}


def continuation(bench: Bench) -> Iterator[Row]:
    """A sound that breaks off in its middle goes on: what is heard in each part, and where it begins."""
    part, cut = bench.clips.audios.shape[1], bench.clips.audios.shape[1] // 2
    clips = bench.clips.taken(np.abs(bench.clips.audios[:, cut - cut // 4 : cut]).max(axis=1) > QUIET)
    made = bench.make(clips.captions, clips.audios[:, :cut], extend_s=FURTHER_S)
    naive = np.concatenate([clips.audios[:, :cut], bench.one_after_another(clips.captions, FURTHER_S)], axis=1)
    yield {"name": "the sounds themselves", "first_join": bench.joins(clips.audios, [cut])}
    for name, audios in (("extended", made), ("naive: new sounds behind each other", naive)):
        starts = range(cut, audios.shape[1] - part + 1, part)
        row = {"name": name, "rate_by_part": bench.by_part(audios, clips.names, starts)}
        yield row | {"first_join": bench.joins(audios, [cut]), "joins": bench.joins(audios, starts[1:])}


def long_form(bench: Bench) -> Iterator[Row]:
    """Eight times the trained length, as windows, as one call and as sounds behind each other."""
    clips, part = bench.clips, bench.clips.audios.shape[1]
    captions, count = clips.captions, round(LONG_S / SECONDS)
    ways: dict[str, Callable[[], Floats]] = {
        f"windows of {window:g} s": lambda window=window: bench.make(  # type: ignore[misc]
            captions, audio_length_in_s=LONG_S, window_s=window
        )
        for window in (SECONDS, 2 * SECONDS)
    }
    ways["one call"] = lambda: bench.make(captions, audio_length_in_s=LONG_S)
    ways["naive: new sounds behind each other"] = lambda: bench.one_after_another(captions, LONG_S)
    for name, way in ways.items():
        start = time.perf_counter()
        audios = way()
        spent = (time.perf_counter() - start) / len(audios)
        rates = bench.by_part(audios, clips.names, range(0, count * part, part))
        joins = bench.joins(audios, range(part, count * part, part))
        yield {"name": name, "rate": float(np.mean(rates)), "rate_by_part": rates, "joins": joins, "clip_s": spent}


def loops(bench: Bench) -> Iterator[Row]:
    """Whether the end leads into the beginning: the join in the middle of two turns."""
    clips = bench.clips
    for name, loop in (("loop", True), ("naive: the sound again", False)):
        made = bench.make(clips.captions, audio_length_in_s=SECONDS, loop=loop)
        twice, length = np.concatenate([made, made], axis=1), made.shape[1]
        yield {"name": name, **bench.recognised(made, clips.names), "join": bench.joins(twice, [length])}


def weights(bench: Bench) -> Iterator[Row]:
    """Two sounds in one prompt, one of which counts more: as which of them it is heard."""
    clips, others = bench.clips, bench.others
    for weight in WEIGHTS:
        captions = [f"({one}:{weight}) and {two}" for one, two in zip(clips.captions, others.captions, strict=True)]
        made = bench.make(captions, audio_length_in_s=SECONDS, prompt_weights=True)
        second = bench.recognised(made, others.names)["rate"]
        yield {"name": f"weight {weight:g}", **bench.recognised(made, clips.names), "second": second}


STUDIES = {
    study.__name__: study for study in (round_trip, variations, inpainting, continuation, long_form, loops, weights)
}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run the studies that the options name, and print their rows. Raises InputError for one that there is not."""
    for name in (name for name in options.studies if name not in STUDIES):
        raise InputError(f"there is no study '{name}': {', '.join(STUDIES)}")
    bench = Bench(options)
    result: dict[str, list[Row]] = {}
    with closing(bench.pipeline):
        for name in options.studies or STUDIES:
            print(f"{name}: {STUDIES[name].__doc__}", flush=True)
            result[name] = []
            for row in STUDIES[name](bench):
                print(f"  {line(row)}", flush=True)
                result[name].append(row)
    if options.plot and "variations" in result:
        plot_variations(result["variations"], options.plot)
    settings = {key: getattr(options, key) for key in ("steps", "scheduler", "per_class", "seed")}
    return {"settings": settings, "studies": result}


def _both(bench: Bench, name: str, made: Floats) -> Row:
    old = bench.recognised(made, bench.clips.names)["rate"]
    likeness = bench.likeness(made, bench.clips.audios)
    return {"name": name, **bench.recognised(made, bench.others.names), "old": old, "likeness": likeness}


def _at(bench: Bench, audios: Floats, names: Sequence[str], places: Sequence[int]) -> Row:
    return {**bench.recognised(audios, names), "joins": bench.joins(audios, places)}


def _mixed(sounds: Floats, fresh: Floats, share: float) -> Floats:
    """Both at a peak of 0.5, in these shares."""
    level = [part / np.abs(part).max(axis=1, keepdims=True) * 0.5 for part in (sounds, fresh)]
    return level[0] * (1 - share) + level[1] * share


def _turned(clips: RealClips, per_class: int) -> RealClips:
    """For each clip one of another class, far from it in the list."""
    turn = per_class * max(len(clips.names) // per_class // 2, 1)
    order = np.roll(np.arange(len(clips.names)), turn)
    return RealClips(clips.audios[order], tuple(clips.names[i] for i in order), tuple(clips.captions[i] for i in order))
