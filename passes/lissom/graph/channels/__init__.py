"""Which channels of which tensors must be cut together, and how they are cut."""
