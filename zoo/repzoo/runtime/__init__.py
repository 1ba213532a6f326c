"""The local runtime: preprocessing, ONNX Runtime sessions, and the encoder built on them."""
