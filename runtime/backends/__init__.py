"""Devices and engines: the only place that knows ONNX Runtime, OpenVINO, TensorRT and CuPy.

`engine.py` and `device.py` are the doors that the pipeline uses. A backend is one file with a function
`load(path, inputs, outputs, device, built_for) -> Engine`, named in `engine.BACKENDS`; it imports its package lazily.
"""
