"""What is changed in a graph before OpenVINO compiles it: so that it is computed faster, and right."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from runtime.backends.device import Array

ATTENTION = "ScaledDotProductAttention"


def round_residual_blocks(model: Any) -> None:
    """Let the convolutions of residual blocks take BF16; their sums and all else stay in FP32. Changes the model.

    They have as many channels out as in, a leaky ReLU ahead, and nearly all of a HiFi-GAN's arithmetic; those in INT8
    have a FakeQuantize ahead and stay as they are. OpenVINO has no mark for this; but a convolution whose operands are
    BF16 computes in it, whatever the rest does.
    """
    from openvino import opset13 as opset

    for layer in model.get_ordered_ops():
        if layer.get_type_name() != "Convolution" or len(set(layer.input(1).get_shape()[:2])) > 1:
            continue
        if layer.input_value(0).get_node().get_type_name() != "PRelu":
            continue
        users = layer.output(0).get_target_inputs()
        for operand in layer.inputs():
            operand.replace_source_output(opset.convert(operand.get_source_output(), "bf16").output(0))
        for user in users:
            user.replace_source_output(opset.convert(layer, "f32").output(0))
    model.validate_nodes_and_infer_types()


def upsample_by_convolution(model: Any) -> None:
    """Put a plain convolution in place of each transposed one along time. Changes the model.

    Of `stride` neighboring outputs each takes the same few inputs, with weights of its own: they are channels of one
    convolution, which are then laid out in time. OpenVINO is faster so, most where the kernel is no multiple of the
    stride (bench/LOG.md).
    """
    from openvino import opset13 as opset

    def whole(*numbers: int) -> Any:
        return opset.constant(np.array(numbers, np.int64))

    for layer in model.get_ordered_ops():
        if layer.get_type_name() != "ConvolutionBackpropData":
            continue
        how = layer.get_attributes()
        if len(how["strides"]) > 1 or how["dilations"] != [1] or how["output_padding"] != [0]:
            continue
        stride, cut, cut_at_end = (how[name][0] for name in ("strides", "pads_begin", "pads_end"))
        weights = layer.input_value(1)  # (channels in, channels out, kernel)
        rows, columns, kernel = weights.get_shape()
        taps = -(-kernel // stride)
        missing = taps * stride - kernel
        weights = opset.pad(weights, whole(0, 0, 0), whole(0, 0, missing), "constant")
        weights = opset.reshape(weights, whole(rows, columns, taps, stride), special_zero=False)
        weights = opset.gather(weights, whole(*reversed(range(taps))), whole(2))  # a convolution does not turn them
        weights = opset.reshape(opset.transpose(weights, whole(1, 3, 0, 2)), whole(columns * stride, rows, taps), False)
        outer = [taps - 1]
        blocks = opset.convolution(layer.input_value(0), weights, [1], outer, outer, [1])
        samples = opset.depth_to_space(blocks, "depth_first", stride)
        end = whole(-(cut_at_end + missing) or np.iinfo(np.int64).max)
        kept = opset.slice(samples, whole(cut), end, whole(1), whole(2))
        for user in layer.output(0).get_target_inputs():
            user.replace_source_output(kept.output(0))
    model.validate_nodes_and_infer_types()


def split_angles(model: Any) -> Any | None:
    """Take the sines and cosines out of a graph: the model that computes them; None of one without. Changes the model.

    The graph has an input in the place of each from now on. They are of a UNet's timestep and belong in FP32: in BF16
    999 becomes 1000, and its products with the frequencies are off by up to 2 radians. OpenVINO has no mark for this.
    """
    from openvino import opset13 as opset

    alone = model.clone()
    if not (angles := _angles(alone)):
        return None
    for result in alone.get_results():
        alone.remove_result(result)
    alone.add_results([opset.result(angle.output(0)) for angle in angles])
    for i, (angle, output) in enumerate(zip(_angles(model), alone.outputs, strict=True)):
        name = f"angle_{i}"
        output.set_names({name})
        place = opset.parameter(angle.get_output_partial_shape(0), angle.get_output_element_type(0))
        place.output(0).set_names({name})
        for user in angle.output(0).get_target_inputs():
            user.replace_source_output(place.output(0))
        model.add_parameters([place])
    _remove_unused_inputs(alone)
    _remove_unused_inputs(model)
    return alone


class Ahead:
    """Runs what `split_angles` took out of a graph, and feeds the graph with the rest. For one thread at a time."""

    def __init__(self, angles: Any, graph: Any) -> None:
        self._request = angles.create_infer_request()
        self._taken = [tensor.any_name for tensor in angles.inputs]
        self._made = [tensor.any_name for tensor in angles.outputs]
        self._left = [tensor.any_name for tensor in graph.inputs if tensor.any_name not in self._made]

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The feeds of the graph: angles in place of what they alone are computed from."""
        made = self._request.infer({name: feeds[name] for name in self._taken}, share_inputs=True)
        return {**{name: feeds[name] for name in self._left}, **{name: made[name] for name in self._made}}


def misread_in_bf16(model: Any) -> bool:
    """Whether OpenVINO's generated kernels would take heads for positions: where there are as many of both.

    Measured with 2026.4 on AVX-512 BF16: an attention of static shape whose queries have as many positions as heads is
    wrong by half and more. FP32, open shapes, and all other numbers of positions are right.
    """
    shapes = (
        layer.get_input_partial_shape(0) for layer in model.get_ordered_ops() if layer.get_type_name() == ATTENTION
    )
    return any(shape.rank.get_length() == 4 and shape[1].is_static and shape[1] == shape[2] for shape in shapes)


def _angles(model: Any) -> list[Any]:
    return [layer for layer in model.get_ordered_ops() if layer.get_type_name() in {"Sin", "Cos"}]


def _remove_unused_inputs(model: Any) -> None:
    computed = {layer.get_friendly_name() for layer in model.get_ordered_ops()}
    for parameter in model.get_parameters():
        users = {user.get_node().get_friendly_name() for user in parameter.output(0).get_target_inputs()}
        if not users & computed:
            model.remove_parameter(parameter)
