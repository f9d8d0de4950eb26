"""TensorRT engines of a bundle's stages: built in a child process, kept in a cache of plans."""
