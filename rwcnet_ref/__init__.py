"""The PyTorch reference model of RWCNet and its training."""
