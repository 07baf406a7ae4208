"""The CUDA backend. NVDEC decodes, TensorRT infers; importing this package needs no NVIDIA library."""
