"""From a trained reference model to a bundle of ONNX graphs."""
