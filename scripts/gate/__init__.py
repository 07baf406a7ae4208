"""What `scripts/gpu_gate.py` measures, a module for each kind of thing."""
