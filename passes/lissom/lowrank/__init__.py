"""Low-rank options: one convolution becomes a pair of smaller ones, an encoder and a decoder."""
