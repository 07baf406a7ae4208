"""Vidette: a multi-camera RTSP inference service."""

__version__ = "0.1.0"
