"""Parsers of the commands that measure."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from app.cli.options import command, settings_from, with_data_dir

PHASES = ("aligned", "random", "spread")
PRECISIONS = ("auto", "fp32", "bf16", "int8")


def add_bench(commands: Any) -> None:
    parser = command(
        commands,
        "bench",
        "measure this machine with simulated cameras",
        "vidette bench --cameras 4 --seconds 20\n         vidette bench --sweep --cameras 8 --out sweep.json\n"
        "         vidette bench --faults all --cameras 8 --seconds 90 --seed 6 --out chaos.json",
    )
    what = parser.add_argument_group(
        "what is measured", "none of these: one load, beside the limit that this machine has without the service"
    )
    one = what.add_mutually_exclusive_group()
    one.add_argument(
        "--sweep", action="store_true", help="frame by frame, then batches of 1, 4, 8 and 16, in one table"
    )
    one.add_argument("--overhead", action="store_true", help="CPU time of a frame beside decoding and inference")
    one.add_argument("--peers", action="store_true", help="beside what a user would write or pick instead, by turns")
    one.add_argument("--savings", action="store_true", help="what max_fps 1 and the motion gate save a camera")
    one.add_argument(
        "--overload", action="store_true", help="shares, ages and the API at several times what can be inferred"
    )
    one.add_argument(
        "--subscribers",
        type=int,
        metavar="N",
        help="N WebSocket clients of one busy camera, at 15, 30 and 60 fps, beside the same camera without them",
    )
    one.add_argument(
        "--faults",
        metavar="NAME,NAME",
        help="cameras that fail in these ways, or in all: exit code 1 when anything else suffers",
    )
    what.add_argument(
        "--camera-counts", type=_integers, metavar="N,N", help="one camera against many, in one table: such as 1,2,4,8"
    )
    load = parser.add_argument_group("the cameras")
    load.add_argument(
        "--cameras", type=int, metavar="N", help="simulated RTSP cameras (4; of --sweep 16, --overload 8)"
    )
    load.add_argument(
        "--mode",
        choices=("saturated", "paced"),
        default="saturated",
        help="saturated: more frames than can be inferred; paced: the cameras' own rate, for latency (saturated)",
    )
    load.add_argument("--clip", type=Path, metavar="FILE", help="video that the cameras show (default: a drawn scene)")
    load.add_argument(
        "--fps",
        type=float,
        metavar="F",
        help="frames a second of each camera (paced: the clip's; saturated: as many as it takes)",
    )
    load.add_argument("--max-fps", type=float, metavar="F", help="the cameras' setting max_fps (none)")
    load.add_argument(
        "--phase",
        choices=PHASES,
        default="spread",
        help="when cameras send: all at the same instant, by chance, or at even distances (spread)",
    )
    load.add_argument("--seed", type=int, default=0, metavar="N", help="of the phases and faults drawn by chance (0)")
    beyond = parser.add_argument_group("with --overload")
    beyond.add_argument("--times", type=float, default=3.0, metavar="X", help="what the cameras send, against it (3)")
    beyond.add_argument("--only", choices=("synthetic", "real"), help="one of its two parts (both)")
    beyond.add_argument("--ladder", choices=("auto", "off"), default="auto", help="overload.ladder (auto)")
    engine = parser.add_argument_group("the engine", "on a CPU; scripts/gpu_gate.py measures a GPU")
    engine.add_argument("--model", default="vidette-demo", help="model name or path (vidette-demo)")
    engine.add_argument("--models-dir", type=Path, metavar="DIR", help="where models live (default: models_dir)")
    engine.add_argument("--data-dir", type=Path, metavar="DIR", help="where built engines live (default: data_dir)")
    engine.add_argument("--precision", choices=PRECISIONS, help="numbers that it computes in (default: as configured)")
    engine.add_argument("--max-size", type=int, metavar="B", help="largest batch; 1 is frame by frame (measured)")
    engine.add_argument("--batches", type=_integers, metavar="B,B", help="largest batches of --sweep (1,4,8,16)")
    clients = parser.add_argument_group("the clients", "with --subscribers")
    clients.add_argument("--stuck", type=int, metavar="N", help="of them, clients that read nothing (a fifth)")
    clients.add_argument(
        "--delivery", choices=("latest", "all"), default="latest", help="the clients' query mode (latest)"
    )
    clients.add_argument(
        "--stand-still", type=float, metavar="S", help="seconds after which a stuck client is closed (30)"
    )
    peers = parser.add_argument_group("who else runs", "with --peers")
    peers.add_argument("--peer", action="append", metavar="NAME", help="only this one; may be repeated (all there are)")
    peers.add_argument("--images", type=Path, metavar="DIR", help="labelled images: measure our average precision too")
    peers.add_argument("--environments", type=Path, metavar="DIR", help="of heavier peers (.cache/peers)")
    peers.add_argument("--no-paced", action="store_true", help="leave out the part at a load that all carry")
    how = parser.add_argument_group("how")
    how.add_argument("--seconds", type=float, metavar="S", help="seconds of each measurement (20; of many: 10)")
    how.add_argument(
        "--repeat", type=int, default=1, metavar="N", help="repetitions, each a sample of every figure (1)"
    )
    how.add_argument(
        "--offered-fps",
        type=_numbers,
        metavar="F,F",
        help="frames a second of all cameras of --overhead together (10000,1000)",
    )
    how.add_argument("--out", type=Path, metavar="FILE", help="also write the JSON result there")
    how.add_argument("--json", action="store_true", help="print JSON to stdout instead of a table")

    def run(arguments: argparse.Namespace) -> int:
        from app.commands.bench import bench

        return bench(arguments)

    parser.set_defaults(run=run)


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be whole numbers with commas between them, not {text!r}") from None


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers with commas between them, not {text!r}") from None


def add_profile(commands: Any) -> None:
    parser = command(
        commands,
        "profile",
        "show what each stage costs, which resource binds and which batch is best",
        "vidette profile --model yolox_nano.onnx --clip street.mp4\n"
        "         vidette profile --comprehensive --trace trace.json --out profile.json",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="where to measure (default: backend.device)")
    parser.add_argument("--model", default="vidette-demo", help="model name or path (vidette-demo)")
    parser.add_argument("--models-dir", type=Path, metavar="DIR", help="where models live (default: models_dir)")
    parser.add_argument("--clip", type=Path, metavar="FILE", help="video to work on (default: a drawn scene)")
    parser.add_argument("--cameras", type=int, metavar="N", help="cameras that take turns (4, or as many as a batch)")
    parser.add_argument("--batch", type=int, metavar="B", help="frames of a batch (what start-up finds best)")
    parser.add_argument(
        "--seconds", type=float, default=4.0, metavar="S", help="for the components, and for the service (4)"
    )
    parser.add_argument("--frames", type=int, metavar="N", help="as many frames for the components, not --seconds")
    parser.add_argument(
        "--budget-ms", type=float, default=33.0, metavar="MS", help="what a batch may take, for the best one (33)"
    )
    parser.add_argument(
        "--postprocess", action="store_true", help="only set postprocessing beside the usual loop over anchors"
    )
    parser.add_argument("--comprehensive", action="store_true", help="everything, with that comparison")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="write a Chrome trace, for ui.perfetto.dev")
    tools = parser.add_mutually_exclusive_group()
    tools.add_argument("--nsys", action="store_true", help="run under NVIDIA Nsight Systems, into vidette-profile.*")
    tools.add_argument("--ncu", action="store_true", help="run under NVIDIA Nsight Compute, into vidette-profile.*")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the JSON result there")
    parser.add_argument("--json", action="store_true", help="print JSON to stdout instead of tables")

    def run(arguments: argparse.Namespace) -> int:
        from app.commands.profile import profile

        return profile(arguments)

    parser.set_defaults(run=run)


def add_compare(commands: Any) -> None:
    parser = command(
        commands,
        "compare",
        "compare two results of bench or profile, or one with this machine's baseline",
        "vidette compare before.json after.json\n         vidette compare --save bench.json",
    )
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="BASE.json NEW.json; NEW.json alone: baseline"
    )
    parser.add_argument("--save", action="store_true", help="store FILE as this machine's baseline of its kind")
    parser.add_argument(
        "--threshold", type=float, default=5.0, metavar="PERCENT", help="exit with 1 when a figure is worse by more (5)"
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="GLOB", help="only figures with such names; may be repeated"
    )
    parser.add_argument(
        "--pair",
        nargs=2,
        action="append",
        default=[],
        type=Path,
        metavar=("BASE", "NEW"),
        help="another repetition of both, measured in turn with the first; five tell a change from chance",
    )
    with_data_dir(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the comparison as JSON there")
    parser.add_argument("--json", action="store_true", help="print JSON to stdout instead of a table")

    def run(arguments: argparse.Namespace) -> int:
        from app.commands.compare import run_compare

        return run_compare(arguments, lambda: settings_from(arguments).data_dir)

    parser.set_defaults(run=run)
