"""The first hour on a GPU: each item in a process of its own, its result on the disk before the next one starts."""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from bench.gpu.items import ITEMS
from bench.processes import in_a_process
from bench.report import circumstances
from runtime.errors import InputError

CHILD = "bench.gpu.items"
OF_A_BUNDLE = ("call", "times", "kernels")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run the items that are named, or all that have no good result in the file yet. Nothing that was found is lost.

    Raises InputError for an item that there is not.
    """
    for name in (name for name in options.items if name not in ITEMS):
        raise InputError(f"there is no item '{name}': {', '.join(ITEMS)}")
    file: Path = options.file
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for name in options.items or [name for name in ITEMS if not found.get(name, {}).get("ok")]:
        if name in OF_A_BUNDLE and options.engines is None:
            print(f"{name:10} left out: it needs --engines")
            continue
        with tempfile.TemporaryDirectory() as work:
            case = {"name": name, "engines": str(options.engines), "aim": options.aim}
            result = in_a_process(CHILD, case, Path(work))
        found[name] = {**result, "circumstances": circumstances()}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, indent=2) + "\n")
        print(f"{name:10} {'ok' if result.get('ok') else 'NOT OK'} {json.dumps(result)}", flush=True)
    return {"file": str(file), "failed": not all(result.get("ok") for result in found.values())}
