"""How long to wait before a camera is tried again. Pure."""

from __future__ import annotations

import random


class Backoff:
    """Exponential delays with jitter: 1, 2, 4, ... seconds up to `max_s`, each shortened by up to a quarter.

    The jitter keeps a rack of cameras that lost power together from coming back in the same instant. A run that
    lasted `healthy_s` starts the row over; a shorter one does not, else a flapping camera would be hammered.
    Not thread-safe: one camera's reader owns it.
    """

    def __init__(
        self, *, base_s: float = 1.0, max_s: float = 60.0, healthy_s: float = 30.0, rng: random.Random | None = None
    ) -> None:
        self._base_s = base_s
        self._max_s = max(base_s, max_s)
        self._healthy_s = healthy_s
        self._rng = rng or random.Random()
        self._attempt = 0

    def after(self, run_s: float) -> float:
        """Seconds to wait after a run that delivered frames for `run_s` seconds (0: it never did)."""
        if run_s >= self._healthy_s:
            self._attempt = 0
        delay_s = min(self._max_s, self._base_s * 2.0 ** min(self._attempt, 30))
        self._attempt += 1
        return self._jittered(delay_s)

    def longest(self) -> float:
        """Seconds to wait after an error that a quick retry would not mend."""
        return self._jittered(self._max_s)

    def reset(self) -> None:
        self._attempt = 0

    def _jittered(self, delay_s: float) -> float:
        return delay_s * self._rng.uniform(0.75, 1.0)
