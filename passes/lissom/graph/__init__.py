"""All that a pass may ask of a model, over onnx-graphsurgeon."""
