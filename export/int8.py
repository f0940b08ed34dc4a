"""Float graph to INT8 for CPUs with VNNI: post-training quantization by NNCF."""

import logging
import tempfile
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import openvino
from openvino import opset13 as opset

from export.calibration import Feeds
from export.quantize import SMALL_BYTES
from runtime.backends.device import Array

# What never leaves float: first and last layers, what depends on the timestep or the text alone, and layers whose input
# no norm has brought into a range: a fifth of the arithmetic, most of the error (bench/LOG.md). And attention, which
# OpenVINO does not compute in INT8.
FLOAT_LAYERS = (
    r".*/(conv_in|conv_out|conv_pre|conv_post|post_quant_conv"
    r"|time_embedding|time_emb_proj|attn2/to_[kv]|ff/net\.2"
    r"|conv_shortcut|(up|down)samplers.*)/.*"
)
FLOAT_TYPES = ["ScaledDotProductAttention", "ConvolutionBackpropData"]


class Int8:
    """The graph in a file, as an OpenVINO model (see `export.quantize.Scheme`).

    Weights are symmetric by channel, activations asymmetric by tensor; SmoothQuant moves the outliers of activations
    into the weights of matrix products (Xiao et al. 2022).
    """

    label = "INT8"

    def __init__(self, graph: Path) -> None:
        self.exact = openvino.Core().read_model(graph)

    def quantized(self, kept: Collection[str], feeds: Sequence[Feeds]) -> Any:
        """The graph with FakeQuantize before the layers."""
        import nncf  # seconds to import: a float build has no use for it

        nncf.set_log_level(logging.WARNING)
        graph = nncf.quantize(
            self.exact.clone(),
            nncf.Dataset(feeds),
            subset_size=len(feeds),
            preset=nncf.QuantizationPreset.MIXED,
            model_type=nncf.ModelType.TRANSFORMER,
            ignored_scope=nncf.IgnoredScope(
                names=list(kept),
                patterns=[FLOAT_LAYERS],
                types=FLOAT_TYPES,
                validate=False,  # no graph has all of them
            ),
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.DISABLE),
        )
        halve_weights(graph)
        return graph

    def layers(self, graph: Any) -> list[str]:
        """Names of the layers behind a FakeQuantize."""
        return [operation.get_friendly_name() for operation in _rounding(graph)]

    def without(self, graph: Any, layers: Collection[str]) -> Any:
        """A copy of the graph where the named layers take what was there before their FakeQuantize."""
        trial = graph.clone()
        for operation in _rounding(trial):
            if operation.get_friendly_name() in layers:
                for port in _rounded_inputs(operation):
                    port.replace_source_output(port.get_source_output().get_node().input_value(0))
        return trial

    def outputs(self, graph: Any, feeds: Sequence[Feeds]) -> list[Array]:
        """The first output for each input, computed in float32."""
        compiled = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return [compiled(feed)[0].copy() for feed in feeds]


def halve_weights(graph: Any) -> None:
    """Put the weights that stayed in float32 into FP16. OpenVINO does so when it saves a graph, but no quantized one.

    They are saved as a graph of their own: what OpenVINO makes of it is known to it as compressed, and stays small.
    """
    constants = [operation for operation in graph.get_ordered_ops() if _is_float_weight(operation)]
    users = [list(constant.output(0).get_target_inputs()) for constant in constants]
    core = openvino.Core()
    core.set_property({"ENABLE_MMAP": False})  # the file goes
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "weights.xml")
        openvino.save_model(openvino.Model([opset.result(constant) for constant in constants], []), path)
        halved = core.read_model(path).get_results()
    for ports, result in zip(users, halved, strict=True):
        for port in ports:
            port.replace_source_output(result.input_value(0))


def _is_float_weight(operation: Any) -> bool:
    return (
        operation.get_type_name() == "Constant"
        and operation.get_element_type() == openvino.Type.f32
        and operation.get_byte_size() > SMALL_BYTES
    )


def _rounding(graph: Any) -> Iterable[Any]:
    """The operations that take something rounded; a list first, for what follows may change the graph."""
    return [operation for operation in graph.get_ordered_ops() if _rounded_inputs(operation)]


def _rounded_inputs(operation: Any) -> list[Any]:
    if operation.get_type_name() not in {"MatMul", "Convolution", "ConvolutionBackpropData"}:
        return []
    ports = operation.inputs()
    return [port for port in ports if port.get_source_output().get_node().get_type_name() == "FakeQuantize"]
