"""Parsers of the commands that prepare models."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from app.cli.options import command, models_dir


def add_model(commands: Any) -> None:
    parser = command(commands, "model", "list and add models", "vidette model add yolox_nano")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    add = command(actions, "add", "check a model and put it into models_dir", "vidette model add ./yolov8n.onnx")
    add.add_argument("source", metavar="PATH|NAME", help="an ONNX file, or yolox_nano, yolox_tiny, yolox_s to download")
    shown = command(actions, "list", "show the models in models_dir", "vidette model list --json")
    for action in (add, shown):
        action.add_argument("--models-dir", type=Path, metavar="DIR", help="where models live (default: models_dir)")
        action.add_argument("--json", action="store_true", help="print JSON to stdout")

    def run_add(arguments: argparse.Namespace) -> int:
        from app.commands.model import add_one

        return add_one(arguments.source, models_dir(arguments), as_json=arguments.json)

    def run_list(arguments: argparse.Namespace) -> int:
        from app.commands.model import list_all

        return list_all(models_dir(arguments), as_json=arguments.json)

    add.set_defaults(run=run_add)
    shown.set_defaults(run=run_list)


def add_build(commands: Any) -> None:
    example = "vidette build yolov8n --precision int8 --calibrate gate.mp4 --images labelled/"
    parser = command(commands, "build", "quantise a model for this CPU, and print what that costs", example)
    parser.add_argument("model", metavar="MODEL", help="an ONNX file, a folder with a model.toml, or a name")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu; cuda: as build-engine")
    parser.add_argument("--precision", choices=("fp16", "fp32", "int8"), default="int8", help="default: int8")
    parser.add_argument("--calibrate", type=Path, metavar="DIR|VIDEO", help="images or a video like the cameras'")
    parser.add_argument("--images", type=Path, metavar="DIR", help="labelled images (instances.json) to measure mAP on")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where it goes (default: in data_dir/engines)")
    parser.add_argument("--models-dir", type=Path, metavar="DIR", help="where models live (default: models_dir)")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="default: data_dir")
    parser.add_argument("--json", action="store_true", help="print JSON to stdout")
    # What build-engine asks besides: with --device cuda it gets its own defaults.
    parser.set_defaults(max_batch=16, opt_batch=None, workspace_mib=None, runtime=None, compute_capability=None)

    def run(arguments: argparse.Namespace) -> int:
        from app.commands.build import build

        return build(arguments)

    parser.set_defaults(run=run)


def add_build_engine(commands: Any) -> None:
    example = "vidette build-engine models/yolox_nano/model.onnx --precision fp16"
    parser = command(commands, "build-engine", "build a TensorRT engine from an ONNX model", example)
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
