"""What follows from the times on a GPU: figures, and the table."""

from pathlib import Path
from typing import Any

from bench.gpu.child import ACCURACY_STEPS, EXACT, OURS
from bench.rivals import DECODE_FLOP, UNET_FLOP
from bench.rivals import compare as compare_waveforms


def add_figures(row: dict[str, Any], rows: list[dict[str, Any]], flops: float | None) -> None:
    """Add to a row what follows from its times: milliseconds a UNet step, shares of the matrix rate, and how many times
    as fast ours is.
    """
    if "failed" in row:
        return
    unet = row["batch"] * row["steps"] * UNET_FLOP
    row["unet_step_ms"] = 1e3 * row["stages"]["denoise"] / row["steps"]
    if flops:
        row["share_of_rate"] = (unet + row["batch"] * DECODE_FLOP) / row["median_s"] / flops
        row["unet_share_of_rate"] = unet / row["stages"]["denoise"] / flops
    case = (OURS, row["steps"], row["batch"])
    ours = [other for other in rows if (other["name"], other["steps"], other["batch"]) == case]
    if ours and "failed" not in ours[0]:
        row["ours_is_faster"] = row["median_s"] / ours[0]["median_s"]


def table(rows: list[dict[str, Any]], rate: dict[str, Any], accuracy: dict[str, dict[str, Any]]) -> str:
    """The figures as text, one line a case. The line of a case that failed has its error instead."""
    columns = {  # heading: key and format
        "first s": ("first_s", ".2f"),
        "median s": ("median_s", ".3f"),
        "p90 s": ("p90_s", ".3f"),
        "UNet ms": ("unet_step_ms", ".2f"),
        "GPU GiB": ("device_gib", ".2f"),
        "alloc GiB": ("allocated_gib", ".2f"),
        "of rate": ("share_of_rate", ".1%"),
        "ours is": ("ours_is_faster", ".2f"),
    }
    lines = [f"{'':8} steps batch" + "".join(f"{heading:>10}" for heading in columns)]
    for row in rows:
        figures = (format(row[key], form) if row.get(key) is not None else "-" for key, form in columns.values())
        text = "  failed: " + row["failed"] if "failed" in row else "".join(f"{figure:>10}" for figure in figures)
        lines.append(f"{row['name']:8} {row['steps']:5} {row['batch']:5}{text}")
    lines.append(f"matmul rate: {rate['flops'] / 1e12:.0f} TFLOP/s" if "flops" in rate else f"matmul: {rate['failed']}")
    for name, found in accuracy.items():
        error = "relative error {relative_error:.1e}, log-spectral distance {log_spectral_distance_db:.2f} dB"
        text = f"failed: {found['failed']}" if "failed" in found else error.format(**found)
        lines.append(f"{name} against diffusers fp32, {ACCURACY_STEPS} steps: {text}")
    return "\n".join(lines)


def compare(waveforms: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    """The error of a contender's waveform against that of diffusers in FP32, which started from the same latents."""
    for side in (name, EXACT):
        found = waveforms.get(side, {"failed": "left out"})
        if "failed" in found:
            return {"failed": f"{side}: {found['failed']}"}
    actual, expected = (Path(waveforms[side]["waveform"]) for side in (name, EXACT))
    return compare_waveforms(actual, expected)
