"""Whether what is asked for is heard: the judge listens to generated sounds, and to real ones of the same classes.

Captions and real sounds come from the held-out split. Half of the clips lend their captions, the other half is what
distances are measured to: the distance of real sounds to real sounds is what a perfect model would have.
"""

import argparse
import time
from contextlib import ExitStack, closing
from dataclasses import asdict
from typing import Any

import numpy as np

from bench.figures import confusions_line, frechet_distance, percent, recognition
from bench.judge import Floats, load_judge
from bench.sound_makers import OurSounds, ReferenceSounds, Setting, SoundMaker, round_trips
from bench.sounds import real_clips
from export.demo.sounds import CLASSES, SAMPLE_RATE_HZ
from runtime.errors import InputError

DDIM, DPM = "DDIMScheduler", "DPMSolverMultistepScheduler"
SWEEP = (
    *(Setting(DDIM, steps) for steps in (200, 50)),
    *(Setting(DPM, steps) for steps in (20, 10, 5)),
    *(Setting(DPM, 20, guidance) for guidance in (1.0, 2.0, 6.0)),  # 3.5 is above
    Setting(DPM, 20, negative="Low quality."),
)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Have sounds made and judged as the options ask, and print a table. Raises InputError for what cannot be asked."""
    own = _setting(options)
    panel = Panel(tuple(dict.fromkeys(options.only or CLASSES)), options.seeds, options.seed, options.seconds)
    with ExitStack() as stack:
        if options.round_trip:
            rate_hz, trips = round_trips(options.round_trip, panel.captioned.audios)
            print(HEADING)
            rows = [panel.real(), *(panel.judged(name, audios, rate_hz) for name, audios in trips)]
        else:
            panel.clap = ours = stack.enter_context(closing(OurSounds(options.engines)))
            contenders: dict[str, SoundMaker] = {"ours": ours}
            if options.reference:
                contenders["diffusers"] = ReferenceSounds(options.reference)
            print(HEADING)
            rows = [panel.real()]
            for setting in SWEEP if options.sweep else (own,):
                rows += [panel.contest(name, contender, setting) for name, contender in contenders.items()]
    print(f"chance is {percent(1 / len(CLASSES))}" + ("" if options.sweep else by_class(rows)))
    settings = {key: getattr(options, key) for key in ("seeds", "seed", "seconds")}
    return {"settings": {**settings, "classes": panel.classes}, "chance": 1 / len(CLASSES), "rows": rows}


def _setting(options: argparse.Namespace) -> Setting:
    """What the options say of how to make sounds, where they say it."""
    keys = ("scheduler", "steps", "guidance", "negative", "interval", "feature_cache")
    named = {key: value for key in keys if (value := getattr(options, key)) is not None}
    if options.reference and "interval" in named:
        raise InputError("--interval is ours alone: the reference guides in every step")
    if options.reference and "feature_cache" in named:
        raise InputError("--feature-cache is ours alone: the reference runs the whole UNet in every step")
    whole = {"--sweep": options.sweep, "--round-trip": options.round_trip}
    for flag in (flag for flag, chosen in whole.items() if chosen):
        if named:
            raise InputError(f"{flag} leaves no choice of {', '.join(named)}")
    if "interval" in named:
        named["interval"] = tuple(named["interval"])
    return Setting(**named)


HEADING = f"{'':58} recognised  95 % interval     CLAP  Fréchet  s a clip"


class Panel:
    """The judge and the real sounds to compare with. Where a bundle lends its CLAP it scores the sounds too."""

    def __init__(self, classes: tuple[str, ...], per_class: int, seed: int, seconds: float) -> None:
        clips = real_clips(classes, 2 * per_class, seed, seconds)
        half = np.arange(len(clips.names)) % (2 * per_class) < per_class
        self.classes, self.captioned, others = classes, clips.taken(half), clips.taken(~half)
        self.clap: OurSounds | None = None
        self._judge, self._seconds = load_judge(), seconds
        self._seeds = [seed * len(self.captioned.names) + i for i in range(len(self.captioned.names))]
        self._features = self._judge.features(others.audios, SAMPLE_RATE_HZ)

    def real(self) -> dict[str, Any]:
        """The row of the real sounds: the most that can be recognised, and the distance of one half to the other."""
        return self.judged("real sounds", self.captioned.audios, SAMPLE_RATE_HZ)

    def contest(self, name: str, contender: SoundMaker, setting: Setting) -> dict[str, Any]:
        """Have a contender make sounds at a setting: its row of the table."""
        start = time.perf_counter()
        audios = contender.render(self.captioned.captions, self._seeds, self._seconds, setting)
        details = {"contender": name, **asdict(setting), "clip_s": (time.perf_counter() - start) / len(audios)}
        details["guidance_interval"] = details.pop("interval")  # that of what is recognised has this name
        return self.judged(f"{name}: {setting}", audios, contender.sample_rate_hz, details)

    def judged(
        self, name: str, audios: Floats, sample_rate_hz: int, details: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The figures of waveforms (rows, samples), one for each captioned clip. They are printed as a line too."""
        found = recognition(self._judge.recognise(audios, sample_rate_hz), self.captioned.names, self._judge.classes)
        features, row = self._judge.features(audios, sample_rate_hz), {"name": name, **(details or {}), **found}
        if self.clap is not None:
            row["clap"] = float(self.clap.clap_scores(self.captioned.captions, audios, sample_rate_hz).mean())
        if len(features) > 1:
            row["frechet_distance"] = frechet_distance(features, self._features)
        print(line(row), flush=True)
        return row


def line(row: dict[str, Any]) -> str:
    """A row of figures as a line of the table."""
    low, high = row["interval"]
    interval = f"{percent(low)} to {percent(high)}"
    figures = [
        format(row[key], form) if key in row else "-"
        for key, form in (("clap", ".3f"), ("frechet_distance", ".2f"), ("clip_s", ".2f"))
    ]
    return f"{row['name']:58} {percent(row['rate']):>10}  {interval:17}" + "".join(f"{text:>9}" for text in figures)


def by_class(rows: list[dict[str, Any]]) -> str:
    """Each class's share in every row, the hardest in the last row first, and what the sounds were taken for."""
    last = rows[-1]["by_class"]
    lines = [
        f"  {name:18}" + "".join(f"{percent(row['by_class'][name]):>9}" for row in rows)
        for name in sorted(last, key=lambda name: float(last[name]))
    ]
    confusions = [f"{row['name']} is taken for other than asked: {confusions_line(row)}" for row in rows]
    return "\n".join(["; by class, columns as the rows above:", *lines, *confusions])
