"""NVIDIA TensorRT and TensorRT-RTX by one code path: building, caching and running engines."""
