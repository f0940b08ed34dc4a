"""`build --backend auto`: what suits the machine, and why."""

from importlib.util import find_spec
from typing import NamedTuple

from runtime.backends.tensorrt_library import capabilities, gpu_capability, library
from runtime.install import install_command


class Choice(NamedTuple):
    """A backend's name in `commands.BACKENDS`, the precision that it is for, and the reason in words."""

    backend: str
    precision: str
    why: str


def choose() -> Choice:
    """TensorRT for the GPU that is here, in a flavour that is installed and runs on it; else graphs, for anywhere."""
    capability = gpu_capability()
    if capability is None:
        return Choice("onnx", "fp32", "no GPU here: graphs, which ONNX Runtime and OpenVINO run")
    here = f"a GPU of compute capability {capability}"
    if find_spec("tensorrt") is not None:
        return Choice("tensorrt", "fp16", f"{here}, and TensorRT {library('tensorrt')[0].__version__}")
    if find_spec("tensorrt_rtx") is None:
        why = (
            f"{here}, and no TensorRT: graphs, which ONNX Runtime runs there; for engines {install_command('tensorrt')}"
        )
        return Choice("onnx", "fp32", why)
    trt, _ = library("tensorrt_rtx")
    if capability in (capabilities(trt) or (capability,)):
        return Choice("tensorrt-rtx", "fp16", f"{here}, and TensorRT-RTX {trt.__version__}")
    why = f"{here}, which TensorRT-RTX {trt.__version__} does not run on; for engines {install_command('tensorrt')}"
    return Choice("onnx", "fp32", f"{why}; until then graphs, which ONNX Runtime runs there")
