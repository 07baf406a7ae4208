"""Cameras and files by FFmpeg (PyAV): what every backend shares, whatever decodes the packets."""
