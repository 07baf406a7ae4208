"""Says by its exit code whether the service in this container is ready. Standard library only: it runs every 10 s."""

from __future__ import annotations

import http.client
import os
import ssl
import sys

TIMEOUT_S = 4.0


def main() -> int:
    """0 when /readyz answers 200, 1 with the reason on stdout (`docker inspect` shows it) otherwise."""
    port = os.environ.get("VIDETTE_SERVER__PORT", "8080")
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=TIMEOUT_S)
    try:
        try:
            status, text = ask(connection)
        except (ConnectionResetError, http.client.HTTPException):  # a port with TLS hangs up on plain HTTP
            connection.close()
            # Its certificate is for other names than this one, and nobody is between us and our own port.
            unchecked = ssl._create_unverified_context()
            connection = http.client.HTTPSConnection("127.0.0.1", int(port), timeout=TIMEOUT_S, context=unchecked)
            status, text = ask(connection)
    except (OSError, http.client.HTTPException) as exc:
        print(f"port {port} does not answer: {exc}")
        return 1
    finally:
        connection.close()
    print(status, text)
    return 0 if status == 200 else 1


def ask(connection: http.client.HTTPConnection) -> tuple[int, str]:
    connection.request("GET", "/readyz")
    answer = connection.getresponse()
    return answer.status, answer.read(500).decode(errors="replace")


if __name__ == "__main__":
    sys.exit(main())
