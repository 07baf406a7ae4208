"""Parsers of the commands that measure."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from app.cli.options import command


def add_bench(commands: Any) -> None:
    parser = command(
        commands, "bench", "measure this machine with simulated cameras", "vidette bench --cameras 4 --seconds 20"
    )
    parser.add_argument("--cameras", type=int, default=4, metavar="N", help="simulated RTSP cameras (4)")
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S", help="seconds to measure (20)")
    parser.add_argument("--model", default="vidette-demo", help="model name or path (vidette-demo)")
    parser.add_argument("--models-dir", type=Path, metavar="DIR", help="where models live (default: models_dir)")
    parser.add_argument(
        "--clip", type=Path, metavar="FILE", help="video that the cameras show (default: a drawn scene)"
    )
    parser.add_argument("--fps", type=float, metavar="F", help="frames a second of each camera (default: the clip's)")
    parser.add_argument("--max-size", type=int, metavar="B", help="largest batch; 1 is frame by frame (measured)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the JSON result there")
    parser.add_argument("--json", action="store_true", help="print JSON to stdout instead of a table")

    def run(arguments: argparse.Namespace) -> int:
        from app.commands.bench import bench

        return bench(arguments)

    parser.set_defaults(run=run)
