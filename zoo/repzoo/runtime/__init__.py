"""Run a package on ONNX Runtime: preprocessing, sessions, the encoder, golden outputs."""
