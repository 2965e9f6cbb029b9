"""Writes how often the kernel library allocates: by the end of a first run of each input, and in runs after those."""

import ctypes
import sys

import lissom_runtime
import numpy as np
import onnxruntime

count = ctypes.CDLL(None).counted_allocations
count.restype = ctypes.c_long

model, inputs = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
lissom_runtime.register(options)
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
with np.load(inputs) as arrays:
    given = list(arrays.values())
for x in given:
    session.run(None, {"x": x})
before = count()
for _ in range(3):
    for x in given:
        session.run(None, {"x": x})
sys.stdout.write(f"{before} {count() - before}\n")
