"""`python -m export.demo.training STAGE --folder FOLDER`: train the demo checkpoint, stage by stage or all of them.

Training goes on where it stopped; `--minutes` stops a stage in time.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from export.demo.training import clap, conditioning, data, diffusion, vae, vocoder
from export.demo.training.conditioning import Conditioner
from export.demo.training.embeds import write_embeds
from export.demo.training.pack import pack
from export.demo.training.parts import load, write_start
from export.loop import averaged
from runtime.errors import AudioLDM2Error

SCALING = "scaling.json"
STAGES = (
    "data",
    "start",
    "vae",
    "latents",
    "vocoder",
    "features",
    "clap",
    "conditioning",
    "diffusion",
    "embeds",
    "unet",
    "last",
    "audio_tower",  # after what hears the text tower alone
    "pack",
)


def main(arguments: list[str] | None = None) -> int:
    """Run the stage that is named. Returns the exit status: 0, 1 for a known error, 2 where `--minutes` ended it."""
    parser = argparse.ArgumentParser(prog="python -m export.demo.training", description=__doc__, allow_abbrev=False)
    parser.add_argument("stage", choices=(*STAGES, "all"))
    parser.add_argument("--folder", type=Path, required=True, help="where data and training states are")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop a stage after this time")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        for stage in STAGES if options.stage == "all" else (options.stage,):
            done = options.folder / f"{stage}.done"
            if options.stage == "all" and done.exists():
                continue
            if not run(stage, options.folder, options.minutes):
                return 2
            done.touch()
    except (AudioLDM2Error, OSError) as error:
        print(f"error: {error}; stages go in this order: {', '.join(STAGES)}", file=sys.stderr)
        return 1
    return 0


def run(stage: str, folder: Path, minutes: float) -> bool:
    """Run one stage. Returns False when its time was over before its steps."""

    def loaded(*stages: str) -> Any:
        return load(folder / "start", *(folder / f"{name}.pt" for name in stages))

    def factor() -> float:
        return float(json.loads((folder / SCALING).read_text())["scaling_factor"])

    if stage == "data":
        data.write(folder / "data")
    elif stage == "start":
        write_start(folder / "start", folder / "data" / "captions.json")
    elif stage == "vae":
        return vae.run(folder, loaded().vae, vae.PLAN, minutes)
    elif stage == "latents":
        scale = vae.write_latents(folder, loaded("vae").vae)
        (folder / SCALING).write_text(json.dumps({"scaling_factor": scale}))
    elif stage == "vocoder":
        return vocoder.run(folder, loaded().vocoder, vocoder.PLAN, minutes)
    elif stage == "features":
        clap.write_features(folder / "data")
    elif stage == "clap":
        return clap.run(folder / "clap.pt", loaded(), clap.PLAN, minutes)
    elif stage == "conditioning":
        return conditioning.run(folder, loaded("clap"), factor(), conditioning.PLAN, minutes)
    elif stage == "diffusion":
        pipeline, heads = loaded("clap", "conditioning"), averaged(folder / "conditioning.pt")
        return diffusion.run(folder / "diffusion.pt", pipeline, heads, factor(), diffusion.PLAN, minutes)
    elif stage == "embeds":
        values = averaged(folder / "conditioning.pt")["guess"]["bias"].numel()
        write_embeds(folder / "data", Conditioner(loaded("clap", "diffusion"), values))
    elif stage == "unet":
        return diffusion.run_unet(folder, loaded("diffusion"), factor(), diffusion.UNET_PLAN, minutes)
    elif stage == "last":
        pipeline, heads = loaded("clap", "diffusion", "unet"), averaged(folder / "diffusion.pt")
        return diffusion.run(folder / "last.pt", pipeline, heads, factor(), diffusion.LAST_PLAN, minutes)
    elif stage == "audio_tower":
        return clap.run(folder / "audio_tower.pt", loaded("clap"), clap.AUDIO_PLAN, minutes, audio_alone=True)
    elif stage == "pack":
        size = pack(folder, folder / "demo", factor())
        print(f"{size / 1e6:.1f} MB in {folder / 'demo'}")
    return True


if __name__ == "__main__":
    sys.exit(main())
