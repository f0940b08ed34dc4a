"""A bundle of graphs without weights, for a machine that only small files reach: others of a like spread fill it there.

    python -m bench.gpu.hollow strip engines/base /tmp/hollow        # megabytes
    python -m bench.gpu.hollow fill /tmp/hollow engines/base         # runs, and takes as long as the real one

What a filled bundle makes is noise: it is for time, memory and the parity of one backend with another.
"""

import argparse
import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from runtime.bundle import Bundle
from runtime.bundle.manifest import MANIFEST, describe_file, read_manifest, write_manifest

SPREADS = "spreads.json"  # mean and deviation of every weight that was left out, by graph and name
LARGE = 1024  # bytes: what is smaller stays
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


def strip(source: Path, out: Path) -> None:
    """Copy a bundle of ONNX graphs without its large weights. Raises BundleError for a folder that is none."""
    bundle = Bundle.read(source)
    graphs = {spec.files[0].name for spec in bundle.manifest.engines.values()}
    files = {file.name for spec in bundle.manifest.engines.values() for file in spec.files}
    out.mkdir(parents=True)
    for path in (path for path in source.iterdir() if path.name not in files):
        shutil.copyfile(path, out / path.name)
    spreads = {}
    for name in sorted(graphs):
        model = onnx.load(source / name)
        spreads[name] = _emptied(model, f"{name}.data")
        (out / name).write_bytes(model.SerializeToString())
    (out / SPREADS).write_text(json.dumps(spreads))


def fill(hollow: Path, out: Path, seed: int = 0) -> None:
    """Write the bundle that `strip` left, with normal weights of the same mean and deviation."""
    spreads: dict[str, dict[str, tuple[float, float]]] = json.loads((hollow / SPREADS).read_text())
    out.mkdir(parents=True)
    for path in (path for path in hollow.iterdir() if path.name not in (MANIFEST, SPREADS)):
        shutil.copyfile(path, out / path.name)
    rng = np.random.default_rng(seed)
    for name, own in spreads.items():
        if not own:
            continue
        graph = onnx.load(out / name, load_external_data=False)
        with (out / f"{name}.data").open("wb") as data:
            for tensor in (tensor for tensor in graph.graph.initializer if tensor.name in own):
                mean, deviation = own[tensor.name]
                weights = mean + deviation * rng.standard_normal(int(np.prod(tensor.dims)), np.float32)
                data.write(weights.astype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).tobytes())
    manifest = read_manifest(hollow)
    engines = {
        name: msgspec.structs.replace(
            spec, files=tuple(describe_file(out, path.name) for path in sorted(out.glob(f"{spec.files[0].name}*")))
        )
        for name, spec in manifest.engines.items()
    }
    write_manifest(out, msgspec.structs.replace(manifest, engines=engines))


def _emptied(model: ModelProto, data: str) -> dict[str, tuple[float, float]]:
    """Take the large weights out of a graph, and give their means and deviations."""
    spreads, offset = {}, 0
    for tensor in model.graph.initializer:
        if tensor.data_type not in FLOATS or len(tensor.raw_data) <= LARGE:
            continue
        values = numpy_helper.to_array(tensor).astype(np.float64)
        spreads[tensor.name] = float(values.mean()), float(values.std())
        place = {"location": data, "offset": offset, "length": len(tensor.raw_data)}
        offset += len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.ClearField("external_data")
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
    return spreads


def main() -> None:
    """The two commands above."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.hollow", description=__doc__)
    parser.add_argument("do", choices=["strip", "fill"])
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path, help="a folder that is not there yet")
    options = parser.parse_args()
    do = strip if options.do == "strip" else fill
    do(options.source, options.out)


if __name__ == "__main__":
    main()
