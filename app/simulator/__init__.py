"""Simulated RTSP cameras, and the drawn scenes that they can show."""
