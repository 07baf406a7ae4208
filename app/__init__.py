"""Vidette: a multi-camera RTSP inference service."""

import os

__version__ = "0.1.0"

# From 1.29 on ONNX Runtime reports every session to its maker and leaves an id in the home directory. A camera service
# does neither. It looks at this when it is imported, so it is said before anything of ours can import it.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
