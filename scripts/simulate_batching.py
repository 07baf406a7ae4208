"""Which batching policy gives the youngest results: scripts/simulate_batching.py --like cpu --load 50,70,90,120

Arrivals of cameras go through the service's own mailbox and policy, on a virtual clock, to a device with a latency
curve: a made-up one (--like), a given one (--curve) or a measured one (--from, what `vidette bench --sweep --out` or
`vidette profile --out` wrote). Prints a table for each load; a star is at the policy whose p99 is lowest among those
that drop the fewest frames. `default` is what the service does: as few frames in a batch as the device is nearly
fastest with, and contexts with cores of their own share what is ready.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run from a checkout, which need not be installed

from app.errors import AppError, ConfigError  # noqa: E402
from app.measure.machine import this_machine  # noqa: E402
from app.measure.results import result  # noqa: E402
from scripts.batching.arrivals import Arrival, Cameras, at_rate, drawn, rate, recorded, repeated  # noqa: E402
from scripts.batching.candidates import candidates  # noqa: E402
from scripts.batching.device import Device, from_result, from_text  # noqa: E402
from scripts.batching.report import best, drawing, figures, table  # noqa: E402
from scripts.batching.simulation import Outcome, simulate  # noqa: E402

# "gpu" is assumed, in the manner of a small detector: a batch of 16 takes four times as long as one frame. "cpu" is
# yolox_nano_416 in BF16 by OpenVINO on two cores of a Sapphire Rapids, 2 contexts of one thread, measured: batches gain
# nothing.
LIKE = {
    "gpu": Device(ms={1: 1.0, 4: 1.5, 8: 2.3, 16: 4.0}, contexts=1, launch_ms=0.3, shared=True),
    "cpu": Device(ms={1: 11.4, 2: 24.5, 4: 47.6, 8: 97.8}, contexts=2, launch_ms=0.1),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Frames at one load, and how much of the device's capacity they are."""

    load: float  # percent
    arrivals: tuple[Arrival, ...]


def main(argv: Sequence[str]) -> int:
    try:
        return _simulate(_parser().parse_args(argv))
    except ConfigError as exc:
        print(f"simulate_batching: {exc}", file=sys.stderr)
        return 2
    except AppError as exc:
        print(f"simulate_batching: {exc}", file=sys.stderr)
        return 1


def _simulate(arguments: argparse.Namespace) -> int:
    _check(arguments)
    device = _device(arguments)
    max_size = min(arguments.max_size, device.largest)
    outcomes: dict[float, dict[str, Outcome]] = {}
    for workload in _workloads(arguments, device, max_size):
        tried = candidates(device, max_size, arguments.max_age_ms / 1e3)
        outcomes[workload.load] = {each.name: simulate(workload.arrivals, device, each) for each in tried}
        if not arguments.json:
            print(f"{_heading(workload, device, max_size)}\n{table(outcomes[workload.load])}\n")
    if arguments.plot is not None:
        _write(arguments.plot, drawing(outcomes, f"{_what(arguments)}; {_device_text(device)}"))
    if arguments.json or arguments.out:
        details = {"device": asdict(device), "best": {f"{load:g}": best(each) for load, each in outcomes.items()}}
        text = json.dumps(result("batching_simulation", this_machine(), figures(outcomes), **details), indent=2)
        if arguments.json:
            print(text)
        if arguments.out is not None:
            _write(arguments.out, text + "\n")
    return 0


def _workloads(arguments: argparse.Namespace, device: Device, max_size: int) -> list[Workload]:
    capacity = device.capacity_fps(max_size)
    record = None if arguments.arrivals is None else recorded(arguments.arrivals)
    if record is not None:
        record = repeated(record, max(1, math.ceil(arguments.seconds * rate(record) / len(record))))
        own_fps = rate(record)
    else:
        own_fps = (arguments.fps or 0.0) * arguments.cameras
    loads = arguments.load or ([100 * own_fps / capacity] if own_fps else [70.0])
    found = []
    for load in loads:
        offered = load / 100 * capacity
        if record is not None:
            found.append(Workload(load=load, arrivals=at_rate(record, offered)))
            continue
        plan = Cameras(
            count=arguments.cameras,
            fps=offered / arguments.cameras,
            seconds=arguments.seconds,
            phase=arguments.phase,
            jitter_ms=arguments.jitter_ms,
            poisson=arguments.poisson,
            seed=arguments.seed,
        )
        arrivals = drawn(plan)
        if len(arrivals) < 2:
            raise ConfigError(f"--seconds: {arguments.seconds:g} s are too short for two frames at {offered:.3g} fps")
        found.append(Workload(load=load, arrivals=arrivals))
    return found


def _device(arguments: argparse.Namespace) -> Device:
    like = LIKE[arguments.like]
    if arguments.curve is not None:
        ms, contexts, launch_ms, shared = from_text(arguments.curve), 1, 0.0, False
    elif arguments.measured is not None:
        measured = from_result(arguments.measured)
        ms, contexts, launch_ms, shared = measured.ms, measured.contexts or 1, 0.0, False
    else:
        ms, contexts, launch_ms, shared = dict(like.ms), like.contexts, like.launch_ms, like.shared
    return Device(
        ms=ms,
        contexts=arguments.contexts or contexts,
        launch_ms=launch_ms if arguments.launch_ms is None else arguments.launch_ms,
        shared=arguments.shared or shared,
    )


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what cannot be simulated, with a sentence that names the option."""
    whole = {"--cameras": (arguments.cameras, 1, 1024), "--max-size": (arguments.max_size, 1, 64)}
    whole |= {} if arguments.contexts is None else {"--contexts": (arguments.contexts, 1, 64)}
    for name, (value, low, high) in whole.items():
        if not low <= value <= high:
            raise ConfigError(f"{name} must be from {low} to {high}, not {value}")
    positive = {"--seconds": arguments.seconds, "--fps": arguments.fps, "--max-age-ms": arguments.max_age_ms}
    for name, number in positive.items():
        if number is not None and not 0 < number < math.inf:
            raise ConfigError(f"{name} must be more than 0, not {number:g}")
    for name, number in {"--jitter-ms": arguments.jitter_ms, "--launch-ms": arguments.launch_ms}.items():
        if number is not None and not 0 <= number < math.inf:
            raise ConfigError(f"{name} must be at least 0, not {number:g}")
    if arguments.plot is not None and arguments.plot.suffix.lower() != ".svg":
        raise ConfigError(f"--plot draws an SVG; {arguments.plot} must end in .svg")


def _heading(workload: Workload, device: Device, max_size: int) -> str:
    cameras = 1 + max(arrival.camera for arrival in workload.arrivals)
    fps = rate(workload.arrivals)
    what = f"load {workload.load:.0f} %: {cameras} cameras, {fps:.0f} fps of {device.capacity_fps(max_size):.0f}"
    return f"{what}; {_device_text(device)}; batches up to {max_size}"


def _device_text(device: Device) -> str:
    plural = "s" * (device.contexts > 1)
    return f"{device.contexts} context{plural}{' on one device' * (device.shared and device.contexts > 1)}"


def _what(arguments: argparse.Namespace) -> str:
    if arguments.arrivals is not None:
        return f"arrivals of {arguments.arrivals.name}"
    return f"{arguments.cameras} cameras, {'poisson' if arguments.poisson else arguments.phase}"


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise AppError(f"{path} cannot be written: {exc.strerror}") from None


def _loads(text: str) -> list[float]:
    try:
        loads = [float(part) for part in text.split(",")]
    except ValueError:
        loads = []
    if not loads or not all(0 < load <= 1000 for load in loads):
        raise argparse.ArgumentTypeError(f"must be percentages with commas between them, not {text!r}")
    return loads


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="simulate_batching", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_argument_group("arrivals")
    what.add_argument("--cameras", type=int, default=72, metavar="N", help="cameras (72)")
    what.add_argument("--load", type=_loads, metavar="P,P", help="percent of what the device can do (70)")
    what.add_argument("--fps", type=float, metavar="F", help="of each camera, instead of a load")
    what.add_argument("--phase", choices=("aligned", "random", "spread"), default="random", help="(random)")
    what.add_argument("--jitter-ms", type=float, default=2.0, metavar="MS", help="standard deviation of a delay (2)")
    what.add_argument("--poisson", action="store_true", help="exponential gaps instead of a fixed rate")
    what.add_argument("--arrivals", type=Path, metavar="FILE", help="recorded ones: JSON with arrivals_ms by camera")
    what.add_argument("--seconds", type=float, default=10.0, metavar="S", help="of arrivals (10)")
    what.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed gives the same arrivals (0)")
    device = parser.add_argument_group("device")
    curve = device.add_mutually_exclusive_group()
    curve.add_argument("--like", choices=tuple(LIKE), default="gpu", help="a curve from this file (gpu)")
    curve.add_argument("--curve", metavar="N:MS,N:MS", help="milliseconds by batch size, such as 1:3.0,4:6.1,16:20")
    curve.add_argument("--from", dest="measured", type=Path, metavar="FILE", help="the JSON of a bench or a profile")
    device.add_argument("--contexts", type=int, metavar="N", help="batches that can be under way at once")
    device.add_argument("--shared", action="store_true", help="the contexts execute in turn, as on a GPU")
    device.add_argument("--launch-ms", type=float, metavar="MS", help="host's work before a batch starts")
    device.add_argument("--max-size", type=int, default=16, metavar="B", help="largest batch (16)")
    device.add_argument("--max-age-ms", type=float, default=500.0, metavar="MS", help="older frames are stale (500)")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw p99 over load")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the JSON result there")
    parser.add_argument("--json", action="store_true", help="print JSON to stdout instead of tables")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
