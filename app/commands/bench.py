"""`vidette bench`: how much of what this machine can do is left when it is done as a service.

Three measurements follow each other in one process: the limit (see `app.measure.limit`), the service with simulated
RTSP cameras (see `app.measure.workload`), and the limit again. The same execution contexts run in all three. The
simulator is a child process; what it costs is told apart. `--sweep` and `--camera-counts` do so for many loads,
`--overhead` and `--savings` measure the service's own cost, without a limit; `--overload` what it does beyond it, and
`--subscribers` what its clients cost.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from app.commands.progress import Progress
from app.commands.scratch import scratch_folder
from app.errors import AppError, ConfigError
from app.logs import configure_logging
from app.measure.load import MOST_FPS
from app.results.hub import MAX_SUBSCRIBERS

MOST_CAMERAS = 256
MOST_REPETITIONS = 100
_CAMERAS, _MANY_CAMERAS = 4, 16  # the latter, so that the largest batches can be filled
_CAMERAS_OF_PEERS = 8
_CAMERAS_OF_OVERLOAD = 8  # two of each priority
_SECONDS, _SECONDS_OF_MANY, _SECONDS_OF_OVERHEAD = 20.0, 10.0, 2.0
# Options that one measurement alone takes, and those that a chaos run has no use for; with their usual values.
_ONLY_WITH: Mapping[str, Mapping[str, Any]] = {
    "--overload": {"--times": 3.0, "--only": None, "--ladder": "auto"},
    "--subscribers": {"--stuck": None, "--delivery": "latest", "--stand-still": None},
    "--peers": {"--peer": None, "--images": None, "--environments": None, "--no-paced": False},
}
_NOT_WITH_FAULTS: Mapping[str, Any] = {
    "--camera-counts": None,
    "--mode": "saturated",
    "--clip": None,
    "--fps": None,
    "--max-fps": None,
    "--phase": "spread",
    "--model": "vidette-demo",
    "--precision": None,
    "--max-size": None,
    "--repeat": 1,
}
# The arguments, a folder to work in, who is told; gives the JSON and the text.
Measurement: TypeAlias = Callable[[argparse.Namespace, Path, Progress], tuple[dict[str, Any], str]]


def bench(arguments: argparse.Namespace) -> int:
    """Measure, print, write `--out`. 0 when it was measured, whatever the figures; raises `ConfigError` (2).

    Only `--faults` has something to promise: 1 when an invariant broke.
    """
    _check(arguments)
    configure_logging("error")
    with scratch_folder("bench") as folder, Progress() as progress:
        result, text = _measurement(arguments)(arguments, folder, progress)
    if arguments.out is not None:
        _write(arguments.out, result)
    print(json.dumps(result, indent=2) if arguments.json else text)
    return 0 if result.get("holds", True) else 1


def _measurement(arguments: argparse.Namespace) -> Measurement:
    """What was asked for; sets its usual length and number of cameras where none were given."""
    # Late, as everywhere: only who uses a backend needs its packages.
    if arguments.overhead:
        from app.commands.bench_overhead import overhead

        arguments.seconds = arguments.seconds or _SECONDS_OF_OVERHEAD
        return overhead
    if arguments.subscribers is not None:
        from app.commands.bench_subscribers import subscribers

        arguments.seconds = arguments.seconds or _SECONDS_OF_MANY
        return subscribers
    if arguments.peers:
        from app.commands.peers import run_peers

        arguments.seconds = arguments.seconds or _SECONDS_OF_MANY
        arguments.cameras = arguments.cameras or _CAMERAS_OF_PEERS
        return run_peers
    if arguments.overload:
        from app.commands.bench_overload import overload

        arguments.seconds = arguments.seconds or _SECONDS_OF_MANY
        arguments.cameras = arguments.cameras or _CAMERAS_OF_OVERLOAD
        return overload
    if arguments.faults is not None:
        from app.commands.bench_faults import CAMERAS, SECONDS, faults

        arguments.seconds = arguments.seconds or SECONDS
        arguments.cameras = arguments.cameras or CAMERAS
        return faults
    from app.commands.bench_cases import cameras, one_load, sweep

    many = arguments.sweep or arguments.savings or arguments.camera_counts is not None
    arguments.seconds = arguments.seconds or (_SECONDS_OF_MANY if many else _SECONDS)
    arguments.cameras = arguments.cameras or (_MANY_CAMERAS if arguments.sweep else _CAMERAS)
    if arguments.savings:
        from app.commands.bench_savings import savings

        return savings
    if arguments.sweep:
        return sweep
    return one_load if arguments.camera_counts is None else cameras


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what cannot be measured, with a sentence that names the option."""
    _whole("--cameras", arguments.cameras, MOST_CAMERAS)
    _whole("--max-size", arguments.max_size, 16)
    _whole("--repeat", arguments.repeat, MOST_REPETITIONS)
    for count in arguments.camera_counts or ():
        _whole("--camera-counts", count, MOST_CAMERAS)
    for size in arguments.batches or ():
        _whole("--batches", size, 16)
    for offered_fps in arguments.offered_fps or ():
        if not 0 < offered_fps <= 1e6:
            raise ConfigError(f"--offered-fps must be more than 0 and at most 1000000, not {offered_fps:g}")
    if arguments.seconds is not None and not 0 < arguments.seconds < math.inf:
        raise ConfigError(f"--seconds must be more than 0, not {arguments.seconds:g}")
    for option, fps in (("--fps", arguments.fps), ("--max-fps", arguments.max_fps)):
        if fps is not None and not 0 < fps <= MOST_FPS:
            raise ConfigError(f"{option} must be more than 0 and at most {MOST_FPS:g}, not {fps:g}")
    if arguments.clip is not None and not arguments.clip.is_file():
        raise ConfigError(f"--clip: there is no file {arguments.clip}")
    if arguments.out is not None and not arguments.out.absolute().parent.is_dir():
        raise ConfigError(f"--out: there is no folder {arguments.out.parent}")
    _check_company(arguments)
    _check_clients(arguments)
    if arguments.camera_counts is not None and (arguments.sweep or arguments.savings):
        other = "--sweep" if arguments.sweep else "--savings"
        raise ConfigError(f"--camera-counts does not go with {other}: choose one of the two tables")
    if arguments.batches is not None and not arguments.sweep:
        raise ConfigError("--batches goes with --sweep; --max-size is the largest batch of everything else")
    if not 1 < arguments.times <= 100:
        raise ConfigError(f"--times must be more than 1 and at most 100, not {arguments.times:g}")
    if arguments.offered_fps is not None and not arguments.overhead:
        raise ConfigError("--offered-fps goes with --overhead; --fps is the rate of simulated cameras")


def _check_company(arguments: argparse.Namespace) -> None:
    """Refuse what would be ignored: a figure would seem to be of something that it is not of."""
    for measurement, options in _ONLY_WITH.items():
        if _given(arguments, measurement) in (None, False) and (others := _changed(arguments, options)):
            raise ConfigError(f"{others[0]} goes with {measurement}")
    if arguments.faults is not None and (others := _changed(arguments, _NOT_WITH_FAULTS)):
        raise ConfigError(f"{others[0]} does not go with --faults, which brings a model and cameras of its own")


def _changed(arguments: argparse.Namespace, options: Mapping[str, Any]) -> list[str]:
    return [option for option, usual in options.items() if _given(arguments, option) != usual]


def _given(arguments: argparse.Namespace, option: str) -> Any:
    return getattr(arguments, option.removeprefix("--").replace("-", "_"))


def _check_clients(arguments: argparse.Namespace) -> None:
    clients, stuck = arguments.subscribers, arguments.stuck
    _whole("--subscribers", clients, MAX_SUBSCRIBERS)
    if arguments.stand_still is not None and not 0 < arguments.stand_still < math.inf:
        raise ConfigError(f"--stand-still must be more than 0, not {arguments.stand_still:g}")
    if clients is not None and stuck is not None and not 0 <= stuck <= clients:
        raise ConfigError(f"--stuck must be from 0 to the {clients} of --subscribers, not {stuck}")
    if clients is not None and arguments.camera_counts is not None:
        raise ConfigError("--camera-counts does not go with --subscribers, which watch one camera")


def _whole(option: str, value: int | None, most: int) -> None:
    if value is not None and not 1 <= value <= most:
        raise ConfigError(f"{option} must be from 1 to {most}, not {value}")


def _write(path: Path, result: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    except OSError as exc:
        raise AppError(f"--out: {path} cannot be written: {exc.strerror}") from None
