"""The command line: parses, dispatches, turns errors into sentences and exit codes (0 ok, 1 failed, 2 bad usage)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app import __version__
from app.errors import AppError, ConfigError
from app.settings import FILE_ONLY, Settings, leaves, load_settings

SHORT = {"server.host": "--host", "server.port": "--port", "model": "--model", "data_dir": "--data-dir"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Usage errors end the process with 2, as argparse does."""
    parser = build_parser()
    arguments = parser.parse_args(sys.argv[1:] if argv is None else argv)
    try:
        return int(arguments.run(arguments))
    except ConfigError as exc:
        print(f"vidette: {exc}", file=sys.stderr)
        return 2
    except AppError as exc:
        print(f"vidette: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vidette",
        description="Multi-camera RTSP inference: cameras in over REST, detections out over REST and WebSocket.",
        epilog="example: vidette serve --model vidette-demo",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"vidette {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _serve(commands)
    _demo(commands)
    _doctor(commands)
    _model(commands)
    _build_engine(commands)
    _bench(commands)
    _export(commands)
    _import(commands)
    _backup(commands)
    _restore(commands)
    return parser


def settings_from(arguments: argparse.Namespace, **defaults: Any) -> Settings:
    """The settings that a command line gives; `defaults` are nested values that it may override."""
    overrides: dict[str, Any] = {}
    given = {key: value for key, value in vars(arguments).items() if value is not None}
    for key, value in {**defaults, **given}.items():
        if not key.startswith("set:"):
            continue
        *path, leaf = key.removeprefix("set:").split(".")
        section = overrides
        for part in path:
            section = section.setdefault(part, {})
        section[leaf] = value
    return load_settings(overrides=overrides, config=arguments.config)


def _command(commands: Any, name: str, summary: str, example: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def _with_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file (default: vidette.yml where it exists)")
    group = parser.add_argument_group("settings", "each also in the file and as VIDETTE_ variable")
    for key, field in leaves(Settings):
        if key in FILE_ONLY:
            continue
        names = [f"--{key}", *([SHORT[key]] if key in SHORT and SHORT[key] != f"--{key}" else [])]
        default = "none" if field.default is None else field.default
        description = f"{field.description} (default: {default})".replace("%", "%%")
        group.add_argument(*names, dest=f"set:{key}", metavar="VALUE", help=description)


def _serve(commands: Any) -> None:
    parser = _command(commands, "serve", "run the service", "vidette serve --port 8080 --model models/yolox/model.onnx")
    _with_settings(parser)

    def run(arguments: argparse.Namespace) -> int:
        from app.commands.serve import serve

        return serve(settings_from(arguments))

    parser.set_defaults(run=run)


def _demo(commands: Any) -> None:
    parser = _command(commands, "demo", "run the service with four live demo cameras", "vidette demo")
    _with_settings(parser)
    parser.add_argument("--seconds", type=float, metavar="S", help="stop after this long (default: until Ctrl-C)")

    def run(arguments: argparse.Namespace) -> int:
        from app.commands.demo import demo

        return demo(settings_from(arguments), seconds=arguments.seconds)

    parser.set_defaults(run=run)


def _doctor(commands: Any) -> None:
    example = "vidette doctor rtsp://192.0.2.7/stream --username admin --password-file secret.txt"
    parser = _command(commands, "doctor", "say what this machine can do, or what ails a camera", example)
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


def _model(commands: Any) -> None:
    parser = _command(commands, "model", "list and add models", "vidette model add yolox_nano")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    add = _command(actions, "add", "check a model and put it into models_dir", "vidette model add ./yolov8n.onnx")
    add.add_argument("source", metavar="PATH|NAME", help="an ONNX file, or yolox_nano, yolox_tiny, yolox_s to download")
    shown = _command(actions, "list", "show the models in models_dir", "vidette model list --json")
    for action in (add, shown):
        action.add_argument("--models-dir", type=Path, metavar="DIR", help="where models live (default: models_dir)")
        action.add_argument("--json", action="store_true", help="print JSON to stdout")

    def run_add(arguments: argparse.Namespace) -> int:
        from app.commands.model import add_one

        return add_one(arguments.source, _models_dir(arguments), as_json=arguments.json)

    def run_list(arguments: argparse.Namespace) -> int:
        from app.commands.model import list_all

        return list_all(_models_dir(arguments), as_json=arguments.json)

    add.set_defaults(run=run_add)
    shown.set_defaults(run=run_list)


def _models_dir(arguments: argparse.Namespace) -> Path:
    return arguments.models_dir or load_settings().models_dir


def _build_engine(commands: Any) -> None:
    example = "vidette build-engine models/yolox_nano/model.onnx --precision fp16"
    parser = _command(commands, "build-engine", "build a TensorRT engine from an ONNX model", example)
    parser.add_argument("model", metavar="MODEL", help="an ONNX file, a folder with a model.toml, or a name")
    parser.add_argument("--precision", choices=("fp16", "fp32", "int8"), default="fp16", help="default: fp16")
    parser.add_argument("--max-batch", type=int, default=16, metavar="B", help="largest batch, 1 to 16 (16)")
    parser.add_argument("--opt-batch", type=int, metavar="B", help="batch that it is fastest at (8, or the largest)")
    parser.add_argument("--workspace-mib", type=int, metavar="N", help="GPU memory that a layer may work in (no limit)")
    parser.add_argument("--calibrate", type=Path, metavar="DIR", help="images like the cameras', for int8")
    parser.add_argument("--runtime", choices=("tensorrt", "tensorrt_rtx"), help="default: the one that fits this GPU")
    parser.add_argument(
        "--compute-capability",
        metavar="C,...",
        help="TensorRT-RTX: build for these, as in 8.6,8.9 (default: this GPU; without one, all that it knows)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="the engine's file (default: in data_dir/engines)")
    parser.add_argument("--models-dir", type=Path, metavar="DIR", help="where models live (default: models_dir)")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="default: data_dir")
    parser.add_argument("--json", action="store_true", help="print JSON to stdout")

    def run(arguments: argparse.Namespace) -> int:
        from app.commands.build_engine import build_engine

        return build_engine(arguments)

    parser.set_defaults(run=run)


def _bench(commands: Any) -> None:
    parser = _command(
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


def _export(commands: Any) -> None:
    parser = _command(commands, "export", "write the registered cameras as YAML", "vidette export --out cameras.yml")
    _with_data_dir(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write there (default: to stdout)")
    parser.add_argument("--with-secrets", action="store_true", help="write passwords too")

    def run(arguments: argparse.Namespace) -> int:
        from app.commands.export_cameras import export_cameras

        return export_cameras(settings_from(arguments), arguments)

    parser.set_defaults(run=run)


def _import(commands: Any) -> None:
    example = "vidette import cameras.yml --url http://127.0.0.1:8080"
    parser = _command(commands, "import", "register and change cameras as a YAML file says", example)
    _with_data_dir(parser)
    parser.add_argument("file", type=Path, metavar="FILE", help="as `vidette export` writes it; - is stdin")
    parser.add_argument("--url", metavar="URL", help="the service to import into (default: none runs, into data_dir)")
    parser.add_argument("--force", action="store_true", help="with --url: even when the machine has no room for them")
    parser.add_argument("--dry-run", action="store_true", help="check everything, change nothing")
    parser.add_argument("--json", action="store_true", help="print JSON to stdout")

    def run(arguments: argparse.Namespace) -> int:
        from app.commands.import_cameras import import_cameras

        return import_cameras(settings_from(arguments), arguments)

    parser.set_defaults(run=run)


def _backup(commands: Any) -> None:
    parser = _command(
        commands, "backup", "copy the camera database, also while it is used", "vidette backup cameras.db"
    )
    _with_backup_file(parser)

    def run(arguments: argparse.Namespace) -> int:
        from app.commands.backup import backup

        return backup(settings_from(arguments), arguments)

    parser.set_defaults(run=run)


def _restore(commands: Any) -> None:
    parser = _command(commands, "restore", "put a backup in place, while no service runs", "vidette restore cameras.db")
    _with_backup_file(parser)

    def run(arguments: argparse.Namespace) -> int:
        from app.commands.backup import restore

        return restore(settings_from(arguments), arguments)

    parser.set_defaults(run=run)


def _with_data_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file (default: vidette.yml where it exists)")
    parser.add_argument("--data-dir", dest="set:data_dir", metavar="DIR", help="default: data_dir")


def _with_backup_file(parser: argparse.ArgumentParser) -> None:
    _with_data_dir(parser)
    parser.add_argument("file", type=Path, metavar="FILE", help="the backup, a SQLite file; - is stdout or stdin")
    parser.add_argument("--force", action="store_true", help="replace what is there")
    parser.add_argument("--json", action="store_true", help="print JSON to stdout")
