"""Activation pruning: only the winners among the activations reach the next layer."""
