"""Tiles: a weight cut along inputs and outputs, each block of low rank."""
