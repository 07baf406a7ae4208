"""What this change does to the CPU time of a frame, against the last tag: scripts/compare_commits.py

A small fixed workload (scripts/commits/workload.py) runs on the base commit and on the working tree in turn, each time
in a new process, so that whatever else the machine does hits both. CPU time, not wall time: a busy machine lengthens
the latter by any factor, the former by little. The result goes through `vidette compare`; ends with 1 when a part is
worse by more than the threshold in a way that chance does not explain.

The base is the last tag, without tags where the branch left main, on main itself the commit before. It is unpacked from
git into a folder of .cache; nothing in the repository changes. A part that the base cannot run is left out and said.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run from a checkout, which need not be installed

from app.cli import main as vidette  # noqa: E402
from app.commands.clips import render_clip  # noqa: E402
from app.errors import AppError  # noqa: E402
from app.measure.machine import this_machine  # noqa: E402
from app.measure.results import Figure, result  # noqa: E402
from app.measure.retime import retimed  # noqa: E402

WORKLOAD = ROOT / "scripts" / "commits" / "workload.py"
MODEL = "vidette-demo"
ROUNDS = 5  # the fewest that can tell a change from chance
THRESHOLD_PERCENT = 25.0
CLIP_FPS = 240.0  # a file is read in its own time: the faster, the less of it is spent waiting
_TIMEOUT_S = 120.0
Git: TypeAlias = Callable[..., str]
Samples: TypeAlias = Mapping[str, "float | str"]


def main(argv: Sequence[str]) -> int:
    arguments = _parser().parse_args(argv)
    try:
        base = arguments.base or base_of(git)
        if base is None:
            print("compare_commits: there is no commit before this one to compare with")
            return 0
        with tempfile.TemporaryDirectory(prefix="commits-", dir=_cache()) as folder:
            return _compare(base, Path(folder), arguments)
    except AppError as exc:
        print(f"compare_commits: {exc}", file=sys.stderr)
        return 1


def base_of(git: Git) -> str | None:
    """What the working tree is a change of; None when there is nothing before it."""
    head = git("rev-parse", "HEAD")
    changed = bool(git("status", "--porcelain", "--untracked-files=no"))
    start = "HEAD" if changed else "HEAD^"
    if tag := git("describe", "--tags", "--abbrev=0", start):
        return tag
    for main_branch in ("origin/main", "main"):
        fork = git("merge-base", "HEAD", main_branch)
        if fork and (changed or fork != head):
            return fork[:12]
    return git("rev-parse", "--verify", "--quiet", "--short=12", start) or None


def git(*arguments: str) -> str:
    """What git answers; empty when it cannot."""
    ran = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    return ran.stdout.strip() if ran.returncode == 0 else ""


def samples(rounds: Sequence[Samples]) -> dict[str, Figure]:
    """The parts that every round measured."""
    return {
        f"{part}.cpu_us_per_frame": Figure(
            unit="us", better="lower", samples=tuple(float(each[part]) for each in rounds)
        )
        for part in rounds[0]
        if all(not isinstance(each.get(part, ""), str) for each in rounds)
    }


def _compare(base: str, folder: Path, arguments: argparse.Namespace) -> int:
    commit = git("rev-parse", "--short=12", f"{base}^{{commit}}")
    tree = folder / "base"
    unpack(commit or base, tree)
    clip = retimed(render_clip(folder / "drawn.mp4", "plaza", seconds=4.0), folder / "clip.mp4", fps=CLIP_FPS)
    before: list[Samples] = []
    after: list[Samples] = []
    turns = [(before, tree), (after, ROOT)]
    for _ in range(arguments.rounds):
        for rounds, checkout in turns:
            rounds.append(measured(checkout, clip))
        turns.reverse()  # who goes second has it no easier
    broken = [f"{part}: {why}" for part, why in after[0].items() if isinstance(why, str)]
    if broken:
        raise AppError(f"the working tree cannot run the workload: {'; '.join(broken)}")
    missing = {part: why for part, why in before[0].items() if isinstance(why, str)}
    for part, why in missing.items():
        print(f"compare_commits: {base} cannot run {part}, which is left out: {why}")
    if len(missing) == len(before[0]):
        return 0
    machine = this_machine()
    files = folder / "base.json", folder / "new.json"
    for path, rounds, its_commit in zip(files, (before, after), (commit, machine.commit), strict=True):
        whole = result("commits", replace(machine, commit=its_commit), samples(rounds))
        path.write_text(json.dumps(whole), encoding="utf-8")
    print(f"CPU time of a frame at {base} (base) and in the working tree (new)")
    threshold = ["--threshold", f"{arguments.threshold:g}"]
    out = ["--out", str(arguments.out.resolve())] if arguments.out else []
    return vidette(["compare", *map(str, files), *threshold, *out])


def unpack(commit: str, folder: Path) -> None:
    """The app of a commit, without touching the repository. Raises `AppError`."""
    ran = subprocess.run(["git", "-C", str(ROOT), "archive", commit, "app"], capture_output=True, check=False)
    if ran.returncode:
        raise AppError(f"git does not give out {commit}: {ran.stderr.decode(errors='replace').strip()}")
    with tarfile.open(fileobj=io.BytesIO(ran.stdout)) as archive:
        if hasattr(tarfile, "data_filter"):  # Python 3.10 and 3.11 have it in their later releases only
            archive.extractall(folder, filter="data")
        else:
            archive.extractall(folder)


def measured(tree: Path, clip: Path) -> Samples:
    """One round on one checkout: microseconds by part, or why not. Raises `AppError`."""
    command = [sys.executable, str(WORKLOAD), str(clip), MODEL, str(ROOT / "models")]
    environ = {**os.environ, "PYTHONPATH": str(tree)}
    try:
        ran = subprocess.run(
            command, cwd=tree, env=environ, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise AppError(f"the workload took more than {_TIMEOUT_S:g} s in {tree}") from None
    if ran.returncode == 0:
        found: dict[str, Any] = json.loads(ran.stdout.strip().splitlines()[-1])
        return found
    why = (ran.stderr.strip().splitlines() or ["no reason given"])[-1]
    return dict.fromkeys(("core", "decode", "detect"), why)


def _cache() -> Path:
    folder = ROOT / ".cache"
    folder.mkdir(exist_ok=True)
    return folder


def _rounds(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 50:
        raise argparse.ArgumentTypeError(f"must be from 1 to 50, not {text}")
    return int(text)


def _threshold(text: str) -> float:
    try:
        percent = float(text)
    except ValueError:
        percent = math.nan
    if not 0 <= percent < math.inf:
        raise argparse.ArgumentTypeError(f"must be a percentage, not {text}")
    return percent


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="compare_commits", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", metavar="REF", help="tag or commit to compare with (default: see above)")
    parser.add_argument("--rounds", type=_rounds, default=ROUNDS, metavar="N", help=f"of both ({ROUNDS})")
    parser.add_argument(
        "--threshold", type=_threshold, default=THRESHOLD_PERCENT, metavar="PERCENT", help=f"({THRESHOLD_PERCENT:g})"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the comparison as JSON there")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
