"""Makes Grafana's dashboards: python scripts/dashboards.py, or with --check to say whether they are up to date."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run from a checkout, which need not be installed

from scripts.grafana.camera import CAMERA  # noqa: E402
from scripts.grafana.fleet import FLEET  # noqa: E402
from scripts.grafana.layout import dashboard_json  # noqa: E402

FOLDER = ROOT / "deploy" / "grafana" / "dashboards"


def render() -> dict[str, str]:
    """Each dashboard's file name and text."""
    made = {"fleet.json": FLEET, "camera.json": CAMERA}
    return {name: json.dumps(dashboard_json(each), indent=1, ensure_ascii=False) + "\n" for name, each in made.items()}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="dashboards.py", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when a file is out of date")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the files lie (default: %(default)s)")
    arguments = parser.parse_args(argv)
    folder: Path = arguments.folder
    rendered = render()
    if arguments.check:
        return _check(folder, rendered)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in rendered.items():
        (folder / name).write_text(text, encoding="utf-8")
    return 0


def _check(folder: Path, rendered: dict[str, str]) -> int:
    found = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.json")}
    wrong = sorted(name for name in {*found, *rendered} if found.get(name) != rendered.get(name))
    for name in wrong:
        print(f"{folder / name} is out of date; run: python scripts/dashboards.py", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
