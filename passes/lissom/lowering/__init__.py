"""Layers with sparse weights become operators of the runtime, with bodies of standard operators beside them."""
