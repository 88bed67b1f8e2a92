"""Out of PyTorch: a model leaves as ONNX, TorchScript or safetensors, is read back where it will live, and compared."""
