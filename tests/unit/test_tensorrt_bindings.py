"""Every TensorRT name that the builder and the backend use, against the bindings of each release they are written for.

Objects are known by their agreed local names (INSTANCES), bare or as attributes of self, and by annotations that name a
class. A name spelled in getattr, hasattr or setattr is guarded: one release that has it is enough, in the whole file.
"""

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import pytest

from tests.bindings import RELEASES, ROOT, Description, describe_package

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the stub libraries are made for Linux")

FILES = ("export/tensorrt_builder.py", "runtime/backends/tensorrt.py", "runtime/backends/tensorrt_library.py")

INSTANCES = {
    "trt": ("",),  # the module
    "builder": ("Builder",),
    "cache": ("ITimingCache", "IRuntimeCache"),
    "config": ("IBuilderConfig",),
    "context": ("IExecutionContext",),
    "engine": ("ICudaEngine",),
    "inspector": ("EngineInspector",),
    "logger": ("Logger",),
    "network": ("INetworkDefinition",),
    "parser": ("OnnxParser",),
    "parser_error": ("ParserError",),
    "profile": ("IOptimizationProfile",),
    "refitter": ("Refitter", "OnnxParserRefitter"),
    "runtime": ("Runtime",),
    "runtime_config": ("IRuntimeConfig",),
    "serialization": ("ISerializationConfig",),
}

TEN, ELEVEN, RTX = ("TensorRT 10.13", "TensorRT 10.16"), ("TensorRT 11.0", "TensorRT 11.4"), ("TensorRT-RTX 1.7",)

# names that some releases lack, which the code therefore has to look up by getattr or hasattr
PARTIAL = {
    "trt.ComputeCapability": RTX,
    "trt.CudaGraphStrategy": RTX,
    "trt.DynamicShapesKernelSpecializationStrategy": RTX,
    "trt.EngineValidity": RTX,
    "trt.BuilderFlag.BF16": TEN,
    "trt.BuilderFlag.FP16": TEN,
    "trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH": TEN,
    "builder.build_engine_with_config": TEN + ELEVEN,
    "builder.platform_has_fast_fp16": TEN,
    "config.num_compute_capabilities": RTX,
    "config.set_compute_capability": RTX,
    "context.is_stream_capturable": RTX,
    "engine.device_memory_size": TEN,
    "runtime_config.create_runtime_cache": RTX,
    "runtime_config.cuda_graph_strategy": RTX,
    "runtime_config.dynamic_shapes_kernel_specialization_strategy": RTX,
    "runtime_config.set_runtime_cache": RTX,
    "runtime.get_engine_validity": RTX,
}


@dataclass(frozen=True)
class Use:
    """A dotted path from an object of one of `owners`, and what is done with what it leads to."""

    owners: tuple[str, ...]
    path: tuple[str, ...]
    line: int
    how: str = "read"  # read, call, store; guard: spelled in getattr, hasattr or setattr

    def fault(self, names: Description) -> str | None:
        """What is wrong with this use in one release."""
        faults = [self.fault_of(owner, names) for owner in self.owners]
        return None if None in faults else faults[0]

    def fault_of(self, owner: str, names: Description) -> str | None:
        for depth, name in enumerate(self.path):
            if owner not in names["classes"]:  # beyond what the bindings describe, such as what a property returns
                return None if depth else f"no class {owner}"
            member = names["classes"][owner].get(name)
            if member is None:
                return f"{owner or 'the module'} has no {name}"
            owner = member["type"]
        if self.how == "call" and member["kind"] not in ("method", "class"):
            return f"{name} is a {member['kind']} and is called"
        if self.how == "store" and member["kind"] != "property":
            return f"{name} is a {member['kind']} and is set"
        return None


class Uses(ast.NodeVisitor):
    """The uses of TensorRT in a module's source."""

    def __init__(self, source: str) -> None:
        self.found: list[Use] = []
        self.annotated: dict[str, tuple[str, ...]] = {}
        self.visit(ast.parse(source))

    def resolve(self, node: ast.expr) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        """Owners and path of a dotted expression that starts at an object of TensorRT."""
        path: list[str] = []
        while isinstance(node, ast.Attribute):
            path.insert(0, node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return None
        if node.id == "self" and path:
            owners = INSTANCES.get(path.pop(0).strip("_"))
        elif node.id == "runtime":  # our package; TensorRT's object is runtime_
            owners = None
        else:
            owners = self.annotated.get(node.id) or INSTANCES.get(node.id.strip("_"))
        return (owners, tuple(path)) if owners else None

    def add(self, node: ast.expr, line: int, how: str, name: str | None = None) -> bool:
        place = self.resolve(node)
        if place is None:
            return False
        path = place[1] if name is None else (*place[1], name)
        if path:
            self.found.append(Use(place[0], path, line, how))
        return True

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if not self.add(node, node.lineno, "read" if isinstance(node.ctx, ast.Load) else "store"):
            self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        match node:
            case ast.Call(
                func=ast.Name(id="getattr" | "hasattr" | "setattr"), args=[base, ast.Constant(str(name)), *_]
            ):
                self.add(base, node.lineno, "guard", name)
        if not (isinstance(node.func, ast.Attribute) and self.add(node.func, node.lineno, "call")):
            self.visit(node.func)
        for argument in (*node.args, *node.keywords):
            self.visit(argument)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """A public method of a subclass is a hook: misspelt, it would never be called."""
        for base in node.bases:
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                    self.add(base, method.lineno, "read", method.name)
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outside, self.annotated = self.annotated, dict(self.annotated)
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            self.annotate(argument.arg, argument.annotation)
        self.generic_visit(node)
        self.annotated = outside

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if isinstance(node.target, ast.Name):
            self.annotate(node.target.id, node.annotation)
        self.generic_visit(node)

    def annotate(self, name: str, annotation: ast.expr | None) -> None:
        """Take a class of TensorRT from `trt.X`, "trt.X" or a union with one of them."""
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            annotation = ast.parse(annotation.value, mode="eval").body
            self.visit(annotation)
        for part in ast.walk(annotation) if annotation else ():
            match part:
                case ast.Attribute(value=ast.Name(id="trt"), attr=found):
                    self.annotated[name] = (found,)


def faults(source: str, label: str, names: Description, elsewhere: list[Description]) -> Iterator[str]:
    """A line for every use in `source` that does not hold in the release `label`."""
    found = Uses(source).found
    guarded = {(use.owners, use.path) for use in found if use.how == "guard"}
    for use in found:
        prefixes = {(use.owners, use.path[:end]) for end in range(1, len(use.path) + 1)}
        # where a release lacks one of several classes, the object may be of that class and the code not be reached
        lenient = guarded & prefixes or not names["classes"].keys() >= set(use.owners)
        everywhere = [use.fault(other) for other in (names, *elsewhere)]
        if everywhere[0] is not None and not (lenient and None in everywhere):
            yield f"{use.line}: {'.'.join(use.path)}: {everywhere[0]} in {label} ({names['version']})"


@pytest.fixture(scope="module")
def names(pytestconfig: pytest.Config) -> Callable[[str], Description]:
    """The description of a release by its label in RELEASES; the wheels stay in pytest's cache."""
    folder = pytestconfig.cache.mkdir("tensorrt-bindings")

    @cache
    def describe(label: str) -> Description:
        return RELEASES[label].describe(folder)

    return describe


@pytest.fixture(scope="module")
def installed_rtx() -> Description:
    if find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt_rtx is not installed")
    return describe_package("tensorrt_rtx")


def source_of(file: str) -> str:
    path = ROOT / file
    source = path.read_text(encoding="utf-8")
    assert Uses(source).found, f"{file} uses nothing of TensorRT: are its objects called as INSTANCES says?"
    return source


def fail_on(file: str, wrong: Iterator[str]) -> None:
    if lines := [f"{file}:{fault}" for fault in wrong]:
        pytest.fail("\n".join(lines), pytrace=False)  # an assertion would cut the lines short


@pytest.mark.parametrize("label", RELEASES)
@pytest.mark.parametrize("file", FILES)
def test_every_name_exists(file: str, label: str, names: Callable[[str], Description]) -> None:
    wrong = faults(source_of(file), label, names(label), [names(other) for other in RELEASES])
    fail_on(file, wrong)


@pytest.mark.parametrize("file", FILES)
def test_every_name_exists_in_the_installed_rtx(
    file: str, names: Callable[[str], Description], installed_rtx: Description
) -> None:
    wrong = faults(source_of(file), "the installed tensorrt_rtx", installed_rtx, [names(other) for other in RELEASES])
    fail_on(file, wrong)


def test_stub_libraries_hide_no_name(names: Callable[[str], Description], installed_rtx: Description) -> None:
    if installed_rtx["version"] != RELEASES[RTX[0]].version:
        pytest.skip(f"{installed_rtx['version']} is installed, {RELEASES[RTX[0]].version} was downloaded")
    stubbed = names(RTX[0])["classes"]
    assert {key: set(stubbed[key]) for key in stubbed if key} == {
        key: set(members) for key, members in installed_rtx["classes"].items() if key
    }


@pytest.mark.parametrize("dotted", PARTIAL)
def test_names_that_some_releases_lack(dotted: str, names: Callable[[str], Description]) -> None:
    base, *path = dotted.split(".")
    use = Use(INSTANCES[base], tuple(path), 0)
    assert tuple(label for label in RELEASES if use.fault(names(label)) is None) == PARTIAL[dotted]


@pytest.mark.parametrize(
    "source",
    [
        "trt.Logger(trt.Logger.Severity.ERROR)",
        "trt.float32.itemsize; trt.BuilderFlag.TF32.name; trt.__version__",
        "config.builder_optimization_level = 3",
        "self._config.set_flag(trt.BuilderFlag.REFIT)",
        "import runtime.bundle\nruntime.bundle.Anything()",
        "runtime_.deserialize_cuda_engine(plan)",
        "getattr(trt, 'ComputeCapability', None)",
        "if hasattr(config, 'set_compute_capability'):\n    config.set_compute_capability(capability, 0)",
        "class Progress(trt.IProgressMonitor):\n    def phase_start(self): ...\n    def _mine(self): ...",
        "parser_error.desc()",
        "if hasattr(trt, 'ComputeCapability'):\n    capability = trt.ComputeCapability.CURRENT",
        "cache.serialize(); cache.deserialize(blob)",
    ],
)
def test_the_check_accepts(source: str, names: Callable[[str], Description]) -> None:
    assert list(faults(source, "11.4", names("TensorRT 11.4"), [names(RTX[0])])) == []


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("trt.Bilder(logger)", "1: Bilder: the module has no Bilder in 11.4 (11.4.0.106)"),
        (
            "flag = 0\nflag |= trt.BuilderFlag.FP16",
            "2: BuilderFlag.FP16: BuilderFlag has no FP16 in 11.4 (11.4.0.106)",
        ),
        ("context.set_tensor_adress(n, p)", "1: set_tensor_adress: IExecutionContext has no set_tensor_adress"),
        ("self._engine.device_memory_size", "1: device_memory_size: ICudaEngine has no device_memory_size"),
        ("cache.deserialise(blob)", "1: deserialise: ITimingCache has no deserialise"),
        ("f(x=[runtime_.nothing])", "1: nothing: Runtime has no nothing"),
        ("engine.num_io_tensors()", "1: num_io_tensors: num_io_tensors is a readonly and is called"),
        ("engine.num_layers = 1", "1: num_layers: num_layers is a readonly and is set"),
        ("config.set_compute_capability(c, 0)", "1: set_compute_capability: IBuilderConfig has no set_compute"),
        ("getattr(config, 'set_comptue', None)", "1: set_comptue: IBuilderConfig has no set_comptue"),
        ("def f(plan: trt.IHostMemory): plan.size", "1: size: IHostMemory has no size"),
        ("def f(*, plan: 'trt.IHostMemory | None'): plan.size", "1: size: IHostMemory has no size"),
        ("plan: trt.IHostMemory = build()\nplan.size", "2: size: IHostMemory has no size"),
        (
            "class P(trt.IProgressMonitor):\n    def phase_started(self): ...",
            "2: IProgressMonitor.phase_started: IProgressMonitor has no phase_started",
        ),
    ],
)
def test_the_check_finds(source: str, fault: str, names: Callable[[str], Description]) -> None:
    (found,) = faults(source, "11.4", names("TensorRT 11.4"), [names(RTX[0])])
    assert found.startswith(fault)
