"""Float graph to FP8 for GPUs from compute capability 8.9 on, in ONNX's standard form, which TensorRT reads.

The format is E4M3: three bits of mantissa, values up to 448 (Micikevicius et al. 2022). A layer's weight is stored in
it, and its input rounded to it by QuantizeLinear and DequantizeLinear, each with one scale that brings the largest
value to 448. A scale a channel, for weights, was no better here (bench/LOG.md): what rounds is the mantissa.
"""

import re
from collections.abc import Collection, Mapping, Sequence

import ml_dtypes
import numpy as np
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from export.calibration import Feeds
from export.onnx import plain_session
from export.precision import convert
from runtime.backends.device import Array

OPSET = 19  # the first one with FP8
LARGEST = 448.0
SMALLEST_SCALE = float(np.finfo(np.float16).tiny)  # a scale is FP16 in the typed graph, and below this loses digits
CHANNELS = 16  # on either side of a layer there has to be a multiple of so many for the GPU's matrix instructions
ROUNDED = "/rounded_to_fp8"  # added to a tensor's name
WINDOW = 32  # of a convolution, its largest size that TensorRT has kernels for
# First and last layers, what depends on the timestep alone, and the one kind of layer whose input no norm has brought
# into a range and whose error shows.
FLOAT_LAYERS = (
    r"/(conv_in|conv_out|conv_pre|conv_post|post_quant_conv|time_embedding|time_emb_proj|conv_shortcut)/|/class_embed"
)


class Fp8:
    """A graph of `read_model` (see `export.quantize.Scheme`). Layers of its `islands` are never in FP8.

    What comes out is a float32 graph still, which `export.precision.convert` types as it does any other.
    """

    label = "FP8"

    def __init__(self, model: ModelProto, islands: Mapping[str, str]) -> None:
        self.exact = model
        self._islands = islands
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._suited = {node.name for node in model.graph.node if self._suits(node)}

    def quantized(self, kept: Collection[str], feeds: Sequence[Feeds]) -> ModelProto:
        """The graph with the roundings before its layers, and their weights in FP8."""
        layers = {node.name: node for node in self.exact.graph.node if node.name in self._suited - set(kept)}
        largest = self._largest(sorted({node.input[0] for node in layers.values()}), feeds)
        model = _copy(self.exact)
        del model.graph.node[:]
        next(entry for entry in model.opset_import if not entry.domain).version = OPSET
        rounded: set[str] = set()
        for source in self.exact.graph.node:
            node = NodeProto()
            node.CopyFrom(source)
            if node.name in layers:
                for i, name in enumerate(source.input[:2]):
                    if name not in rounded:
                        weight = self._weights.get(name)
                        made = _rounding(model, name, largest[name]) if weight is None else _stored(model, weight)
                        model.graph.node.extend(made)
                        rounded.add(name)
                    node.input[i] = _rounded(name)
            model.graph.node.append(node)
        return model

    def layers(self, graph: ModelProto) -> list[str]:
        """Names of the layers that take what is rounded."""
        return [node.name for node in graph.graph.node if node.name in self._suited and _is_rounded(node)]

    def without(self, graph: ModelProto, layers: Collection[str]) -> ModelProto:
        """A copy of the graph where the named layers take what is not rounded."""
        trial = _copy(graph)
        exact = {node.name: node for node in self.exact.graph.node}
        for node in trial.graph.node:
            if node.name in layers:
                node.input[:] = exact[node.name].input
        return trial

    def outputs(self, graph: ModelProto, feeds: Sequence[Feeds]) -> list[Array]:
        """The first output for each input, with what stays in FP16 rounded too: what a GPU computes."""
        exact = graph is self.exact
        session = plain_session(_copy(graph) if exact else convert(graph, "fp8", self._islands, emulate=True).model)
        return [session.run(None, _known(session, feed))[0] for feed in feeds]

    def _suits(self, node: NodeProto) -> bool:
        if node.op_type not in {"Conv", "MatMul"} or node.input[1] not in self._weights:
            return False
        text = f"{node.op_type} {node.name}"
        if re.search(FLOAT_LAYERS, text) or any(re.search(pattern, text) for pattern in self._islands.values()):
            return False
        outer, inner, *window = self._weights[node.input[1]].dims  # of a grouped convolution, inner is of one group
        grouped = any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)
        return not grouped and outer % CHANNELS == inner % CHANNELS == 0 and np.prod(window) <= WINDOW

    def _largest(self, names: list[str], feeds: Sequence[Feeds]) -> dict[str, float]:
        """The largest magnitude of each named tensor over all inputs."""
        if not names:
            return {}
        model = _copy(self.exact)
        for name in names:
            magnitude, largest = f"{name}/magnitude", f"{name}/largest"
            model.graph.node.append(helper.make_node("Abs", [name], [magnitude]))
            model.graph.node.append(helper.make_node("ReduceMax", [magnitude], [largest], keepdims=0))
            model.graph.output.append(helper.make_tensor_value_info(largest, TensorProto.FLOAT, []))
        found = [f"{name}/largest" for name in names]
        session = plain_session(model)
        values = [session.run(found, _known(session, feed)) for feed in feeds]
        return dict(zip(names, np.max(values, axis=0).tolist(), strict=True))


def _rounding(model: ModelProto, name: str, largest: float) -> list[NodeProto]:
    """The nodes that round a tensor to FP8 and back."""
    back = _back(model, name, largest)
    code, *parameters = back.input
    model.graph.value_info.append(helper.make_tensor_value_info(code, TensorProto.FLOAT8E4M3FN, None))
    return [helper.make_node("QuantizeLinear", [name, *parameters], [code], name=f"{name}/QuantizeLinear"), back]


def _stored(model: ModelProto, weight: TensorProto) -> list[NodeProto]:
    """A weight is stored as FP8, so that one node makes it float."""
    values = numpy_helper.to_array(weight)
    largest = float(np.abs(values).max())
    back = _back(model, weight.name, largest)
    codes = np.clip(values / _scale(largest), -LARGEST, LARGEST).astype(ml_dtypes.float8_e4m3fn)
    code = helper.make_tensor(back.input[0], TensorProto.FLOAT8E4M3FN, values.shape, codes.tobytes(), raw=True)
    model.graph.initializer.append(code)
    return [back]


def _back(model: ModelProto, name: str, largest: float) -> NodeProto:
    """The node that makes float of a tensor's FP8 codes; scale and zero point join the graph's constants."""
    code, scale, zero = (f"{name}/{part}" for part in ("code", "scale", "zero"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(_scale(largest)), scale))
    model.graph.initializer.append(helper.make_tensor(zero, TensorProto.FLOAT8E4M3FN, [], b"\0", raw=True))
    model.graph.value_info.append(helper.make_tensor_value_info(_rounded(name), TensorProto.FLOAT, None))
    return helper.make_node("DequantizeLinear", [code, scale, zero], [_rounded(name)], name=f"{name}/DequantizeLinear")


def _scale(largest: float) -> np.float32:
    return np.float32(np.float16(max(largest / LARGEST, SMALLEST_SCALE)))


def _copy(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def _rounded(name: str) -> str:
    return name + ROUNDED


def _is_rounded(node: NodeProto) -> bool:
    return node.input[0].endswith(ROUNDED)


def _known(session: onnxruntime.InferenceSession, feed: Feeds) -> Feeds:
    """What a graph takes of a recorded input."""
    return {tensor.name: feed[tensor.name] for tensor in session.get_inputs()}
