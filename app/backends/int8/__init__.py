"""INT8 for every device: pictures to calibrate with, Q/DQ pairs in the ONNX, and what they cost in precision."""
