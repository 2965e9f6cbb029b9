"""Monochromatic stems: every filter looks at one mixture of the colours."""
