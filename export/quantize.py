"""Float graph to INT8 for CPUs with VNNI: post-training quantization by NNCF, kept where its error is small."""

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from export.calibration import Feeds

HELD_OUT = 3  # every third recorded input
WORST = 0.2  # share of the blocks of layers that go back to float for a second try
# What never leaves float: first and last layers, what depends on the timestep or the text alone, and layers whose input
# no norm has brought into a range: a fifth of the arithmetic, most of the error (bench/LOG.md). And attention, which
# OpenVINO does not compute in INT8.
FLOAT_LAYERS = (
    r".*/(conv_in|conv_out|conv_pre|conv_post|post_quant_conv"
    r"|time_embedding|time_emb_proj|attn2/to_[kv]|ff/net\.2"
    r"|conv_shortcut|(up|down)samplers.*)/.*"
)
FLOAT_TYPES = ["ScaledDotProductAttention", "ConvolutionBackpropData"]


def quantize(
    name: str, graph: Path, feeds: Sequence[Feeds], max_error: float, report: Callable[[str], None]
) -> tuple[Any, float] | None:
    """The OpenVINO model of a float graph in INT8 and its relative error; None if that stays above `max_error`.

    The error is that on recorded inputs that were not calibrated with.

    Weights are symmetric by channel, activations asymmetric by tensor; SmoothQuant moves the outliers of activations
    into the weights of matrix products (Xiao et al. 2022). FLOAT_LAYERS stay in float, and where the error is too
    large so do the blocks that cost the most: the rest is tried once more.
    """
    model = openvino.Core().read_model(graph)
    held_out, calibration = feeds[1::HELD_OUT], [feed for i, feed in enumerate(feeds) if i % HELD_OUT != 1]
    expected = _outputs(model, held_out)
    kept: list[str] = []
    for _ in range(2):
        quantized = _quantized(model, calibration, kept)
        actual = _outputs(quantized, held_out)
        error = _error(actual, expected)
        report(f"  {name}: INT8, {len(kept)} more layers kept in float: relative error {error:.1e}")
        if error <= max_error:
            return quantized, error
        hardest = max(range(len(held_out)), key=lambda i: _error(actual[i : i + 1], expected[i : i + 1]))
        kept = _worst_layers(quantized, held_out[hardest], expected[hardest])
    report(f"  {name}: not quantized: the error is above {max_error:g}")
    return None


def _quantized(model: Any, feeds: list[Feeds], kept: list[str]) -> Any:
    import nncf  # seconds to import: a float build has no use for it

    nncf.set_log_level(logging.WARNING)
    return nncf.quantize(
        model.clone(),
        nncf.Dataset(feeds),
        subset_size=len(feeds),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER,
        ignored_scope=nncf.IgnoredScope(
            names=kept,
            patterns=[FLOAT_LAYERS],
            types=FLOAT_TYPES,
            validate=False,  # no graph has all of them
        ),
        advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.DISABLE),
    )


def _worst_layers(model: Any, feed: Feeds, expected: Any) -> list[str]:
    """Names of the layers of the blocks whose inputs cost the most to round, each block measured alone on one input."""
    names: dict[str, list[str]] = {}
    for layer in _layers(model):
        names.setdefault(_block(layer), []).append(layer.get_friendly_name())
    errors = {}
    for block in names:
        trial = model.clone()
        for port in (port for layer in _layers(trial) if _block(layer) == block for port in _rounded_inputs(layer)):
            port.replace_source_output(port.get_source_output().get_node().input_value(0))
        errors[block] = _error(_outputs(trial, [feed]), [expected])
    worst = sorted(errors, key=lambda block: errors[block])[: max(1, round(WORST * len(errors)))]
    return [name for block in worst for name in names[block]]


def _block(layer: Any) -> str:
    """What a layer belongs to, such as unet/up_blocks.2/resnets.1."""
    return "/".join(layer.get_friendly_name().strip("/").split("/")[:3])


def _layers(model: Any) -> Iterable[Any]:
    return (operation for operation in model.get_ordered_ops() if any(_rounded_inputs(operation)))


def _rounded_inputs(operation: Any) -> list[Any]:
    if operation.get_type_name() not in {"MatMul", "Convolution", "ConvolutionBackpropData"}:
        return []
    ports = operation.inputs()
    return [port for port in ports if port.get_source_output().get_node().get_type_name() == "FakeQuantize"]


def _outputs(model: Any, feeds: Sequence[Feeds]) -> list[Any]:
    """The first output for each input, computed in float32."""
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return [compiled(feed)[0].copy() for feed in feeds]


def _error(actual: list[Any], expected: list[Any]) -> float:
    squares = sum(float(np.square(a - e, dtype=np.float64).sum()) for a, e in zip(actual, expected, strict=True))
    return float(np.sqrt(squares / sum(float(np.square(e, dtype=np.float64).sum()) for e in expected)))
