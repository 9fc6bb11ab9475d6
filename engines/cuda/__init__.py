"""CUDA memory, streams and graphs behind one small interface, over cuda-python or pycuda."""
