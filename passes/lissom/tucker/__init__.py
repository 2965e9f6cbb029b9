"""Tucker-2 options: one convolution becomes a 1×1, a smaller k×k and a 1×1 one."""
