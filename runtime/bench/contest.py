"""Sounds of several subjects in turns: A B A B, so that a machine that drifts is fair to all."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.bench.subject import Answer, Setup, Subject
from runtime.errors import AudioLDM2Error
from runtime.wording import one_line

Say = Callable[[str], None]


@dataclass(frozen=True)
class Size:
    """The size of a call."""

    waveforms: int
    duration_s: float | None  # None: the checkpoint's own


@dataclass
class Row:
    """What one subject took for calls of one size."""

    name: str
    size: Size
    first: Answer = field(default_factory=dict)
    calls: list[Answer] = field(default_factory=list)
    failed: str | None = None


@dataclass
class Start:
    """What a subject took: seconds since the start of its process, and the most memory."""

    name: str
    ready_s: float  # imports, and the bundle's manifest
    sound_s: float | None = None  # its first sound; None if that failed
    peak_bytes: int | None = None


def contest(
    setups: Sequence[Setup], sizes: Sequence[Size], call: Mapping[str, Any], *, warm_up: int, runs: int, say: Say
) -> tuple[list[Start], list[Row]]:
    """Run every size: a first call of each subject, `warm_up` more, then `runs` of each in turns.

    Each subject makes its first sound before the next one starts. Every turn has a text of its own, as calls of a
    service have: one that was encoded before is not encoded again. A call that fails ends its row. Raises
    AudioLDM2Error where a bundle cannot be opened.
    """
    subjects: list[Subject] = []
    starts: list[Start] = []
    rows = {size: [Row(setup.name, size) for setup in setups] for size in sizes}
    try:
        for number, setup in enumerate(setups):
            subject = Subject(setup)
            subjects.append(subject)
            starts.append(Start(setup.name, subject.ready_s))
            row = rows[sizes[0]][number]
            _call(subject, row, call, 0, say)
            starts[-1].sound_s = None if row.failed else subject.since_start_s()
        take = 0
        for size in sizes:
            for _ in range(size is sizes[0], 1 + warm_up + runs):
                take += 1
                for subject, row in zip(subjects, rows[size], strict=True):
                    _call(subject, row, call, take, say)
            for row in rows[size]:
                del row.calls[:warm_up]
        for subject, start in zip(subjects, starts, strict=True):
            start.peak_bytes = subject.peak_bytes()
    finally:
        for subject in subjects:
            subject.close()
    return starts, list(itertools.chain(*rows.values()))


def _call(subject: Subject, row: Row, call: Mapping[str, Any], take: int, say: Say) -> None:
    """Make a sound and add what it took to its row: the first one apart from the others."""
    if row.failed is not None:
        return
    try:
        answer = subject.render(_arguments(call, row.size, take))
    except AudioLDM2Error as error:
        row.failed = one_line(error)
        say(f"{row.name}: {row.failed}")
        return
    if row.first:
        row.calls.append(answer)
    else:
        row.first = answer
    say(f"{row.name}: {row.size.waveforms} x {answer['audio_s']:.2f} s in {answer['seconds']:.2f} s")


def _arguments(call: Mapping[str, Any], size: Size, take: int) -> dict[str, Any]:
    own = {"prompt": f"{call['prompt']}, take {take}", "seed": take, "audio_length_in_s": size.duration_s}
    many = {"num_waveforms_per_prompt": size.waveforms} if size.waveforms > 1 else {}
    return {**call, **own, **many}


def sizes_of(waveforms: Sequence[int], durations_s: Sequence[float | None]) -> Iterator[Size]:
    """Every length of every number of waveforms."""
    return itertools.starmap(Size, itertools.product(waveforms, durations_s))
