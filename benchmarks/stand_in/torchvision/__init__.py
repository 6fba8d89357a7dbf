"""A stand-in for torchvision where it is not installed: the few picture operations that training scripts ask for."""
