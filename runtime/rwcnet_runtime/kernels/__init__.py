"""CUDA kernels: sources, what they are compiled with, and the TensorRT plugin made of them."""
