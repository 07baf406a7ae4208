"""How long the API takes to answer, asked from a process of its own.

    python -m app.measure.asking PORT SECONDS PATH...

Asks for the paths in turn, over one connection, and prints the milliseconds of each answer as JSON: {path: [ms, ...]}.
An answer that is not 200 counts as the time until it came; a connection that breaks is made anew within the next one.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from collections.abc import Sequence

_PAUSE_S = 0.02
_TIMEOUT_S = 20.0


def ask(port: int, seconds: float, paths: Sequence[str]) -> dict[str, list[float]]:
    """Blocking, for `seconds` and one answer more."""
    took_ms: dict[str, list[float]] = {path: [] for path in paths}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    ends_at = time.monotonic() + seconds
    while True:
        for path in paths:
            if time.monotonic() > ends_at:
                connection.close()
                return took_ms
            asked_at = time.monotonic()
            try:
                connection.request("GET", path)
                connection.getresponse().read()
            except (OSError, http.client.HTTPException):
                connection.close()
            took_ms[path].append(1e3 * (time.monotonic() - asked_at))
            time.sleep(_PAUSE_S)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(ask(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])))
