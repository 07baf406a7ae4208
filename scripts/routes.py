"""Time the ways from packets to pictures and from pictures to the model's input, side by side, in CPU µs.

    python scripts/routes.py preprocess CLIP --size 416
    python scripts/routes.py decode CLIP

The first row is what the service does; the others are what it could do instead, as shares of the first.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from app.errors import AppError, ConfigError
from app.measure.decode_routes import decode_routes, every_nth_frame, read_clip
from app.measure.machine import this_machine
from app.measure.preprocess_routes import preprocess_routes
from app.measure.results import result
from app.measure.routes import route_figures, route_rows, time_routes

_EVERY = 7  # a frame in seven is scaled: neighbours are too much alike, and would stay in the cache


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=("preprocess", "decode"))
    parser.add_argument("clip", type=Path, help="a video file")
    parser.add_argument("--size", type=int, default=416, help="width and height of the model's input (416)")
    parser.add_argument("--packets", type=int, default=150, help="how much of the clip is used (150)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds, each with every way (7)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the JSON result there")
    options = parser.parse_args()
    try:
        return measure(options)
    except AppError as exc:
        print(exc, file=sys.stderr)
        return 2 if isinstance(exc, ConfigError) else 1


def measure(options: argparse.Namespace) -> int:
    """Time the ways and print them. Blocking. Raises `ConfigError`."""
    if min(options.size, options.packets, options.rounds) < 1:
        raise ConfigError("--size, --packets and --rounds: each must be at least 1")
    clip = read_clip(options.clip, options.packets)
    if options.work == "decode":
        routes, notes = decode_routes(clip)
    else:
        routes, notes = preprocess_routes(every_nth_frame(clip, _EVERY), options.size)
    samples = time_routes(routes, rounds=options.rounds)
    prefix = options.work if options.work == "decode" else f"preprocess_{options.size}"
    document = result("routes", this_machine(), route_figures(prefix, samples), clip=options.clip.name, notes=notes)
    if options.out is not None:
        options.out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(document) if options.json else "\n".join(route_rows(samples, notes)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
