"""The torch side: checkpoint -> ONNX graphs -> engines -> bundle. Never imported by `runtime`."""
