"""Training: a differentiable view of an ONNX graph. The only rooms that import torch (extra `lissom[recover]`)."""
