"""The policies that are tried against each other. All are the service's own, with other settings."""

from __future__ import annotations

from app.batching.policy import BatchPolicy
from scripts.batching.device import Device
from scripts.batching.simulation import Candidate

DELAYS_MS = (2, 5, 10)
TIMEOUT_MS = 33  # a frame's distance at 30 fps
DEFAULT = "default"


def candidates(device: Device, max_size: int, max_age_s: float) -> tuple[Candidate, ...]:
    """The service's default first, then what else could be done on this device."""

    def policy(size: int = max_size, delay_ms: float = 0.0, shared_by: int = 1) -> BatchPolicy:
        return BatchPolicy(max_size=size, max_delay_s=delay_ms / 1e3, max_age_s=max_age_s, shared_by=shared_by)

    found = [
        Candidate(name=DEFAULT, policy=policy(device.best_size(max_size), shared_by=device.lines)),
        Candidate(name="batch 1", policy=policy(1)),
        Candidate(name="greedy", policy=policy()),
    ]
    if device.lines > 1:
        found.append(Candidate(name="shared", policy=policy(shared_by=device.lines)))
    if device.launch_ms:
        early_s = device.launch_ms / 1e3
        found.append(Candidate(name="just in time", policy=policy(shared_by=device.lines), early_s=early_s))
    found += [Candidate(name=f"delay {ms} ms", policy=policy(delay_ms=ms)) for ms in DELAYS_MS]
    return (*found, Candidate(name=f"full or {TIMEOUT_MS} ms", policy=policy(delay_ms=TIMEOUT_MS)))
