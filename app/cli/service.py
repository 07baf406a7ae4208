"""Parsers of the commands that run the service or look at what it needs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from app.cli.options import command, settings_from, with_settings


def add_serve(commands: Any) -> None:
    parser = command(commands, "serve", "run the service", "vidette serve --port 8080 --model models/yolox/model.onnx")
    with_settings(parser)

    def run(arguments: argparse.Namespace) -> int:
        from app.commands.serve import serve

        return serve(settings_from(arguments))

    parser.set_defaults(run=run)


def add_demo(commands: Any) -> None:
    parser = command(commands, "demo", "run the service with four live demo cameras", "vidette demo")
    with_settings(parser)
    parser.add_argument("--seconds", type=float, metavar="S", help="stop after this long (default: until Ctrl-C)")

    def run(arguments: argparse.Namespace) -> int:
        from app.commands.demo import demo

        return demo(settings_from(arguments), seconds=arguments.seconds)

    parser.set_defaults(run=run)


def add_doctor(commands: Any) -> None:
    example = "vidette doctor rtsp://192.0.2.7/stream --username admin --password-file secret.txt"
    parser = command(commands, "doctor", "say what this machine can do, or what ails a camera", example)
    parser.add_argument("url", nargs="?", help="a camera to diagnose")
    parser.add_argument("--username", help="user name at the camera")
    parser.add_argument("--password-file", type=Path, metavar="FILE", help="file that holds the camera's password")
    parser.add_argument("--transport", choices=("auto", "tcp", "udp"), default="auto", help="RTP over TCP or UDP")
    parser.add_argument("--timeout", type=float, default=15.0, metavar="S", help="give up after S seconds (15)")
    parser.add_argument("--media-dir", type=Path, metavar="DIR", help="allow file: URLs below this folder")
    parser.add_argument("--json", action="store_true", help="print JSON to stdout")

    def run(arguments: argparse.Namespace) -> int:
        from app.commands.doctor import doctor

        return doctor(arguments)

    parser.set_defaults(run=run)
