"""All that only a GPU can show, in one go: scripts/gpu_gate.py --out gate.json (about ten minutes).

Prints what is here, part by part, runs every step that these parts allow, prints one table last and writes one JSON. On
a machine without a GPU it says what is missing and ends with 0. A step that fails is told and does not stop the others;
then the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run from a checkout, which need not be installed

from scripts.gate.availability import look_around  # noqa: E402
from scripts.gate.plan import GatePlan, write_plan  # noqa: E402
from scripts.gate.report import as_json, as_table  # noqa: E402
from scripts.gate.steps import STEPS, Outcome, run_in_child, run_steps  # noqa: E402


def main(argv: list[str]) -> int:
    if argv[:1] == ["--child"]:
        return run_in_child(argv[1], Path(argv[2]), Path(argv[3]))
    arguments = _parser().parse_args(argv)
    for path in (arguments.out, arguments.clip):
        if path is not None and not path.absolute().parent.is_dir():
            print(f"gpu_gate: there is no folder {path.parent}", file=sys.stderr)
            return 2
    found = look_around()
    for part in found.parts:
        print(f"{part.name:<14} {'available' if part.available else 'missing':<10} {part.reason}", flush=True)
    outcomes: list[Outcome] = []
    began = time.monotonic()
    if found.gpu:
        with tempfile.TemporaryDirectory(prefix="vidette-gate-") as folder:
            outcomes = _run(arguments, Path(folder), found.missing())
    report = as_json(found, outcomes, seconds=time.monotonic() - began)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"\n{as_table(report)}" if outcomes else '\n"gpu": false: nothing was measured')
    return 1 if any(outcome.state == "failed" for outcome in outcomes) else 0


def _run(arguments: argparse.Namespace, folder: Path, missing: dict[str, str]) -> list[Outcome]:
    work = folder if arguments.work is None else arguments.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    plan = GatePlan(
        model=arguments.model,
        models_dir=str(arguments.models_dir.absolute()),
        precision=arguments.precision,
        clip=None if arguments.clip is None else str(arguments.clip.absolute()),
        scale=arguments.scale,
        work=str(work),
    )
    path = work / "plan.json"
    write_plan(plan, path)
    outcomes = []
    for outcome in run_steps(path, missing, tuple(arguments.steps)):
        why = f": {outcome.reason}" if outcome.reason else ""
        print(f"{outcome.name:<14} {outcome.state:<10} {outcome.seconds:6.1f} s{why}", flush=True)
        outcomes.append(outcome)
        # What is there so far outlives whatever ends the gate.
        (work / "outcomes.json").write_text(json.dumps([asdict(each) for each in outcomes]), encoding="utf-8")
    return outcomes


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Measure and test the CUDA backend on this machine's GPU.",
        epilog="example: python scripts/gpu_gate.py --model yolox_nano.onnx --clip street.mp4 --out gate.json",
    )
    parser.add_argument("--model", default="vidette-demo", help="model name or path to an ONNX file (vidette-demo)")
    parser.add_argument("--models-dir", type=Path, default=ROOT / "models", metavar="DIR", help="where models live")
    parser.add_argument("--precision", choices=("fp16", "fp32"), default="fp16", help="of the engine (fp16)")
    parser.add_argument("--clip", type=Path, metavar="FILE", help="H.264 video of the cameras (default: a drawn scene)")
    parser.add_argument("--scale", type=float, default=1.0, help="stretches every measurement; 0.2 is a quick look (1)")
    names = [step.name for step in STEPS]
    parser.add_argument(
        "--steps", nargs="*", default=[], choices=names, metavar="STEP", help=f"only these: {', '.join(names)}"
    )
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep engines, clips and outcomes here")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON result there")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
