"""FP32 graph to typed FP16 or BF16 with named FP32 islands: precision is in the graph, none is left to choose.

The inputs and outputs of the graph stay float32. Every float tensor inside is half but where an island's pattern says
that FP16 breaks. The same walk also makes an *emulated* graph, float32 with every half tensor rounded: on a CPU it
computes what the typed graph computes on a GPU, overflow included. (ONNX Runtime's CPU provider runs a half graph in
float32 and drops the roundings between two nodes.)
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from export.errors import BuildError

FLOAT = TensorProto.FLOAT
# What a graph in FP8 has outside of its layers is FP16.
HALVES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16, "fp8": TensorProto.FLOAT16}

FLOAT_ONLY_INPUTS = {"Resize": (1, 2)}  # region and scales, by the operator's definition
TYPE_BLIND = {"Shape", "Size", "Cast"}  # take whatever there is: nothing is converted for them
MOVES = {"Reshape", "Transpose", "Concat", "Slice", "Split", "Gather", "Unsqueeze", "Squeeze", "Expand", "Flatten"}


@dataclass(frozen=True)
class Typed:
    """A converted graph, and what it cost: nodes kept in float32 and the bytes their weights take on top of half."""

    model: ModelProto
    float_nodes: int
    extra_bytes: int


def read_model(path: Path) -> ModelProto:
    """The graph at `path` with its weights, and the type of every tensor in it (which has to be found without them)."""
    bare = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False), data_prop=True)
    onnx.external_data_helper.load_external_data_for_model(bare, str(path.parent))
    return bare


def convert(model: ModelProto, precision: str, islands: Mapping[str, str], *, emulate: bool = False) -> Typed:
    """`model` (see `read_model`) in `precision`; nodes that match an island's pattern stay in float32.

    A pattern is searched in "OpType name". Raises BuildError for a graph with subgraphs.
    """
    return _Walk(model, HALVES[precision], list(islands.values()), emulate).run()


@dataclass
class _Walk:
    source: ModelProto
    half: int
    patterns: list[str]
    emulate: bool
    nodes: list[NodeProto] = field(default_factory=list)
    weights: dict[str, TensorProto] = field(default_factory=dict)
    float_nodes: int = 0
    extra_bytes: int = 0

    def run(self) -> Typed:
        graph = self.source.graph
        self._initial = {tensor.name: tensor for tensor in graph.initializer}
        self._floats = _float_tensors(graph)
        self._raw = {tensor.name for tensor in graph.input}  # inputs of the graph, and parts of them
        self._native: dict[str, int] = dict.fromkeys((*self._initial, *self._raw), FLOAT)
        self._converted: dict[tuple[str, int], str] = {}
        self._exact = _index_arithmetic(graph, self._floats)
        outputs = {output.name: f"{output.name}/inside" for output in graph.output}
        self._renamed = outputs
        for node in graph.node:
            self._node(node)
        for name, inside in outputs.items():
            source = self._as(inside, FLOAT) if name in self._floats else inside
            self.nodes.append(helper.make_node("Identity", [source], [name]))
        model = ModelProto()
        model.CopyFrom(_without_graph(self.source))
        model.graph.CopyFrom(
            helper.make_graph(self.nodes, graph.name, graph.input, graph.output, list(self.weights.values()))
        )
        return Typed(model, self.float_nodes, self.extra_bytes)

    def _node(self, source: NodeProto) -> None:
        node = NodeProto()
        node.CopyFrom(source)
        if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
            raise BuildError(f"{node.name} ({node.op_type}) holds a subgraph: precision cannot be set there")
        touches = any(name in self._floats for name in (*node.input, *node.output))
        raw = node.op_type in MOVES and source.input[0] in self._raw  # rounded where it is used: a timestep is 999.5
        want = FLOAT if raw or self._is_island(node) else self.half
        self._raw.update(source.output if raw else ())
        self.float_nodes += touches and want == FLOAT and node.op_type not in TYPE_BLIND
        names = [self._renamed.get(name, name) for name in node.input]
        del node.input[:]
        for i, (name, original) in enumerate(zip(names, source.input, strict=True)):
            node.input.append(self._input(node, i, name, original, want))
        del node.output[:]
        node.output.extend(self._renamed.get(name, name) for name in source.output)
        _retype(node, FLOAT if self.emulate else want)
        self.nodes.append(node)
        for name, original in zip(list(node.output), source.output, strict=True):
            if original in self._floats:
                self._native[name] = want
                if self.emulate and want != FLOAT and node.op_type not in MOVES:
                    self._round_output(node, name)

    def _input(self, node: NodeProto, i: int, name: str, original: str, want: int) -> str:
        if original not in self._floats:
            if original in self._initial:
                self.weights.setdefault(original, self._initial[original])
            return name
        if node.op_type in TYPE_BLIND:
            return self._as(name, self._native[name])
        return self._as(name, FLOAT if i in FLOAT_ONLY_INPUTS.get(node.op_type, ()) else want)

    def _as(self, name: str, want: int) -> str:
        """The tensor called `name` in the type that is wanted: itself, or a converted one that is made once."""
        key = (name, want)
        if key not in self._converted:
            self._converted[key] = self._convert(name, want)
        return self._converted[key]

    def _convert(self, name: str, want: int) -> str:
        if name in self._initial:
            weight = self._initial[name]
            new = name if want == FLOAT else f"{name}/half"
            self.weights[new] = weight if want == FLOAT else self._narrowed(weight, new)
            self.extra_bytes += 2 * int(np.prod(weight.dims)) if want == FLOAT else 0
            self._floats.add(new)
            return new
        if self._native[name] == want or (self.emulate and want == FLOAT):
            return name
        new = f"{name}/{'float' if want == FLOAT else 'half'}"
        if self.emulate:
            self._round(name, new)
        else:
            self.nodes.append(helper.make_node("Cast", [name], [new], name=f"{new}/Cast", to=want))
        return new

    def _narrowed(self, weight: TensorProto, name: str) -> TensorProto:
        values = numpy_helper.to_array(weight)
        narrow = _narrow(values, self.half)
        return numpy_helper.from_array(narrow.astype(np.float32) if self.emulate else narrow, name)

    def _round_output(self, node: NodeProto, name: str) -> None:
        exact = f"{name}/exact"
        index = list(node.output).index(name)
        self.nodes[-1].output[index] = exact
        self._round(exact, name)

    def _round(self, name: str, new: str) -> None:
        self.nodes.append(helper.make_node("Cast", [name], [f"{new}/rounded"], to=self.half))
        self.nodes.append(helper.make_node("Cast", [f"{new}/rounded"], [new], to=FLOAT))

    def _is_island(self, node: NodeProto) -> bool:
        if id_of(node) in self._exact:
            return True
        text = f"{node.op_type} {node.name}"
        return any(re.search(pattern, text) for pattern in self.patterns)


def id_of(node: NodeProto) -> str:
    """What tells a node from the others: its first output."""
    return str(node.output[0])


def _narrow(values: npt.NDArray[np.float32], half: int) -> npt.NDArray[np.generic]:
    """Rounded to half. What stands for "lowest" in a mask is brought into range: Inf would make NaN of a full mask."""
    dtype = np.dtype(np.float16 if half == TensorProto.FLOAT16 else ml_dtypes.bfloat16)
    limit = float(ml_dtypes.finfo(dtype).max)
    finite = np.isfinite(values)
    return np.where(finite, np.clip(values, -limit, limit), values).astype(dtype)


def _retype(node: NodeProto, want: int) -> None:
    """Attributes that say which float type a node makes."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == FLOAT:
            attribute.i = want
        if node.op_type == "ConstantOfShape" and attribute.t.data_type == FLOAT and want != FLOAT:
            values = numpy_helper.to_array(attribute.t)
            attribute.t.CopyFrom(numpy_helper.from_array(_narrow(values, want)))


def _float_tensors(graph: GraphProto) -> set[str]:
    """Names of the float32 tensors. Raises BuildError if a tensor's type is unknown."""
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.output, *graph.value_info)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    unknown = [name for node in graph.node for name in node.output if name and name not in types]
    if unknown:
        raise BuildError(f"the type of '{unknown[0]}' cannot be found")
    return {name for name, kind in types.items() if kind == FLOAT}


def _index_arithmetic(graph: GraphProto, floats: set[str]) -> set[str]:
    """Float nodes whose results end as integers only: positions, buckets, sizes."""
    users: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    outputs = {output.name for output in graph.output}
    exact: set[str] = set()
    for node in reversed(graph.node):
        made = [name for name in node.output if name in floats]
        if not made or any(name in outputs for name in made):
            continue
        if all(_ends_as_index(user, floats) or id_of(user) in exact for name in made for user in users.get(name, [])):
            exact.add(id_of(node))
    return exact


def _ends_as_index(user: NodeProto, floats: set[str]) -> bool:
    """Whether a user of a float tensor makes integers of its values: a cast, or a part of one."""
    return user.op_type in {"Cast", "Floor", "Ceil", "Round"} and not any(name in floats for name in user.output)


def _without_graph(model: ModelProto) -> ModelProto:
    bare = ModelProto()
    for name in ("ir_version", "producer_name", "producer_version"):
        setattr(bare, name, getattr(model, name))
    bare.opset_import.extend(model.opset_import)
    return bare


def matches(model: ModelProto, pattern: str) -> Iterator[str]:
    """Names of the nodes that a pattern finds."""
    return (n.name for n in model.graph.node if re.search(pattern, f"{n.op_type} {n.name}"))
