"""Block-sparse options: a layer keeps its shape, and only some blocks of its weight."""
