"""Says by its exit code whether the service in this container is ready. Standard library only: it runs every 10 s."""

from __future__ import annotations

import http.client
import os
import sys

TIMEOUT_S = 4.0


def main() -> int:
    """0 when /readyz answers 200, 1 with the reason on stdout (`docker inspect` shows it) otherwise."""
    port = os.environ.get("VIDETTE_SERVER__PORT", "8080")
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        print(answer.status, answer.read(500).decode(errors="replace"))
    except OSError as exc:
        print(f"port {port} does not answer: {exc}")
        return 1
    finally:
        connection.close()
    return 0 if answer.status == 200 else 1


if __name__ == "__main__":
    sys.exit(main())
