"""CP options: one convolution becomes a 1×1, a depthwise and a 1×1 one."""
