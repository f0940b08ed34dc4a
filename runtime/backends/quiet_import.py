"""Importing libraries that would tell their makers of it.

ONNX Runtime (1.32, on Linux) and OpenVINO write an identifier of the machine below the user's home when they are
imported, and look up their makers' hosts. A program that renders audio for others must do neither.
"""

import importlib
import os
import sys
from typing import Any

SWITCHES = ("ORT_DISABLE_TELEMETRY", "ORT_TELEMETRY_DISABLED")  # of ONNX Runtime: the name of today, and an earlier one
REPORTER = "openvino_telemetry"  # OpenVINO does without where it is not installed


def import_quietly(name: str) -> Any:
    """The module `name`, imported with telemetry off. Raises ImportError if it is not installed.

    What the user has set is kept: a variable of ONNX Runtime's that is there already is not changed.
    """
    for switch in SWITCHES:
        os.environ.setdefault(switch, "1")
    if name != "openvino" or name in sys.modules or REPORTER in sys.modules:
        return importlib.import_module(name)
    sys.modules[REPORTER] = None  # type: ignore[assignment]  # documented: such an import raises ImportError
    try:
        return importlib.import_module(name)
    finally:
        del sys.modules[REPORTER]
