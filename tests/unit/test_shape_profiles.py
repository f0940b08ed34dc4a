"""Shapes that an engine is compiled for, and the machines that it runs on."""

from types import SimpleNamespace

import pytest

from export.engines_onnx import ONNX
from export.engines_tensorrt import TENSORRT, TENSORRT_RTX, bounded, shape_profiles
from export.errors import BuildError
from export.maker import TensorRTOptions
from export.target import Target
from runtime.backends.specs import BuiltFor, TensorSpec
from runtime.backends.tensorrt_library import capabilities, refusal
from tests.unit.helpers import raises_line

SPECS = {
    "sample": TensorSpec(
        dtype="float32", axes=("batch", "channels", "height"), min_shape=(1, 8, 1), max_shape=(None, 8, None)
    ),
    "mask": TensorSpec(dtype="int64", axes=("batch", "tokens"), min_shape=(1, 1), max_shape=(None, 128)),
    "timestep": TensorSpec(dtype="float32", axes=("one",), min_shape=(1,), max_shape=(1,)),
}
LIMITS = {"batch": 8, "height": 750}


def test_the_commonest_shape_has_a_profile_of_its_own() -> None:
    common, whole = shape_profiles(SPECS, {"batch": 2, "height": 256, "tokens": 16}, LIMITS)
    assert common["sample"] == ((2, 8, 256),) * 3
    assert common["mask"] == ((2, 16),) * 3
    assert whole["sample"] == ((1, 8, 1), (2, 8, 256), (8, 8, 750))
    assert whole["mask"] == ((1, 1), (2, 16), (8, 128))
    assert whole["timestep"] == ((1,), (1,), (1,))


def test_a_typical_size_stays_within_the_bounds() -> None:
    _, whole = shape_profiles(SPECS, {"batch": 20, "height": 9000, "tokens": 500}, LIMITS)
    assert whole["sample"][1] == whole["sample"][2] == (8, 8, 750)


def test_axes_that_depend_on_each_other_have_a_profile_each_way() -> None:
    """GPT2's: what is new and what is past make up all. In no profile may the bounds of one belie the others'."""
    axes = {"new": (1, 160), "past": (0, 159), "all": (1, 160)}
    specs = {
        axis: TensorSpec(dtype="int64", axes=(axis,), min_shape=(low,), max_shape=(high,))
        for axis, (low, high) in axes.items()
    }
    ranges = (
        ({"new": 21, "past": 0, "all": 21}, {"new": 133, "past": 27, "all": 160}),
        ({"new": 1, "past": 27, "all": 28}, {"new": 1, "past": 159, "all": 160}),
    )
    profiles = shape_profiles(specs, {"new": 1, "past": 27, "all": 28}, {}, ranges)
    assert len(profiles) == 3
    for profile in profiles:
        for place in range(3):
            assert profile["new"][place][0] + profile["past"][place][0] == profile["all"][place][0]
    assert profiles[2]["past"] == ((0,), (27,), (159,))


def test_fixed_shapes_need_one_profile() -> None:
    (only,) = shape_profiles({"timestep": SPECS["timestep"]}, {}, {})
    assert only == {"timestep": ((1,), (1,), (1,))}


def test_limits_may_be_below_a_specs_own() -> None:
    (_, whole), specs = shape_profiles(SPECS, {}, {**LIMITS, "tokens": 40}), bounded(SPECS, {**LIMITS, "tokens": 40})
    assert whole["mask"][2] == specs["mask"].max_shape == (8, 40)
    assert specs["sample"].max_shape == (8, 8, 750)


BUILT = BuiltFor(flavour="tensorrt", version="10.13.3.9", compute_capability="9.0")
RTX = BuiltFor(flavour="tensorrt_rtx", version="1.7.1.116", compute_capability=None)


@pytest.mark.parametrize(
    ("built_for", "here", "words"),
    [
        (BUILT, ("tensorrt", "10.13.3.9", "9.0"), None),
        (BUILT, ("tensorrt_rtx", "10.13.3.9", "9.0"), "it is for tensorrt, here is tensorrt_rtx"),
        (BUILT, ("tensorrt", "10.16.1.11", "9.0"), "it needs tensorrt 10.13.3.9 exactly, here is 10.16.1.11"),
        (BUILT, ("tensorrt", "10.13.3.9", "8.9"), "it was built for compute capability 9.0, this GPU has 8.9"),
        (RTX, ("tensorrt_rtx", "1.7.1.116", "8.9"), None),
        (RTX, ("tensorrt_rtx", "1.8.0", "8.9"), "it needs tensorrt_rtx 1.7.1.116 exactly, here is 1.8.0"),
    ],
)
def test_an_engine_says_where_it_cannot_run(built_for: BuiltFor, here: tuple[str, str, str], words: str | None) -> None:
    assert refusal(built_for, *here) == words


def test_a_library_that_does_not_know_the_gpu_is_refused() -> None:
    has = ("7.5", "8.9", "12.0")
    assert refusal(RTX, "tensorrt_rtx", "1.7.1.116", "8.9", has) is None
    words = "tensorrt_rtx 1.7.1.116 does not run on compute capability 9.0 (it has 7.5, 8.9, 12.0): use tensorrt here"
    assert refusal(RTX, "tensorrt_rtx", "1.7.1.116", "9.0", has) == words


def test_what_the_library_says_of_itself() -> None:
    trt = SimpleNamespace(ComputeCapability=SimpleNamespace(__members__=dict.fromkeys(("CURRENT", "SM120", "SM89"))))
    assert capabilities(trt) == ("8.9", "12.0")
    assert capabilities(SimpleNamespace()) == ()


def test_compatible_engines() -> None:
    later = BuiltFor(flavour="tensorrt", version="10.13.3.9", compute_capability="9.0", version_compatible=True)
    assert refusal(later, "tensorrt", "11.4.0.106", "9.0") is None
    assert refusal(later, "tensorrt", "10.9.0.34", "9.0") == "it needs tensorrt 10.13.3.9 or later, here is 10.9.0.34"
    anywhere = BuiltFor(flavour="tensorrt", version="10.13.3.9", compute_capability="9.0", hardware_compatible=True)
    assert refusal(anywhere, "tensorrt", "10.13.3.9", "12.0") is None
    assert refusal(anywhere, "tensorrt", "10.13.3.9", "7.5") is not None
    ada = BuiltFor(flavour="tensorrt_rtx", version="1.7.1.116", compute_capability=None, accepted_capabilities=("8.9",))
    assert refusal(ada, "tensorrt_rtx", "1.7.1.116", "8.9") is None
    assert refusal(ada, "tensorrt_rtx", "1.7.1.116", "12.0") == "it is for compute capability 8.9, this GPU has 12.0"


def test_targets_that_cannot_be() -> None:
    with raises_line(BuildError, "bf16", "use fp32 or fp16"):
        Target(maker=ONNX, precision="bf16")
    with raises_line(BuildError, "are for --backend tensorrt"):
        Target(maker=ONNX, options=TensorRTOptions(max_waveforms=2))
    with raises_line(BuildError, "--compute-capability is for tensorrt-rtx"):
        Target(maker=TENSORRT, options=TensorRTOptions(compute_capabilities=("8.9",)))
    with raises_line(BuildError, "--hardware-compatible is for tensorrt"):
        Target(maker=TENSORRT_RTX, options=TensorRTOptions(hardware_compatible=True))
    with raises_line(BuildError, "--max-waveforms has to be at least 1"):
        Target(maker=TENSORRT, options=TensorRTOptions(max_waveforms=0))
    assert Target(maker=ONNX).suffix == ""
    assert Target(maker=TENSORRT, precision="fp16").suffix == "-tensorrt-fp16"
