"""Faults on purpose: cameras that fail in every way, and whether the service and all other cameras stand it."""
