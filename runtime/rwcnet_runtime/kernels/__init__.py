"""CUDA kernels: their sources, what they are compiled with, and the TensorRT plugin made of them."""
