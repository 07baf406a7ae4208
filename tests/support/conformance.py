"""Holds our calls on NVIDIA's modules against stubs of the real ones, by mypy."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TypeAlias

from tests.support.real_wheels import ROOT

# Everything else that the checked code imports is taken as it comes.
_CONFIG = """\
[mypy]
python_version = {python}
mypy_path = {stubs}
cache_dir = /dev/null
plugins = pydantic.mypy
follow_imports = silent
explicit_package_bases = true
check_untyped_defs = true
strict_optional = false
disallow_any_expr = true
enable_error_code = deprecated
show_column_numbers = true
show_error_end = true
hide_error_context = true
error_summary = false
[mypy-cv2.*,onnx.*,openvino.*,onnxruntime.*,tensorrt_rtx.*]
ignore_missing_imports = true
follow_imports = skip
"""
_LINE = re.compile(r"(.+?):(\d+):(\d+):(\d+):(\d+): error: (.+)")
# First line and column, last line and column: as `ast` counts them.
Place: TypeAlias = tuple[int, int, int | None, int | None]
_ABSENT = re.compile(r'"(?:type\[)?(\w+)\]?" has no attribute "(\w+)"')
_UNKNOWN = re.compile(r"Expression (type contains|has type) \"Any")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What mypy says of a place in a file."""

    path: Path
    place: Place
    text: str

    def __str__(self) -> str:
        path = self.path.relative_to(ROOT) if self.path.is_relative_to(ROOT) else self.path
        return f"{path}:{self.place[0]}: {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """`absent`: names (`BuilderFlag.FP16`) that are not there. `wrong`: what else the real signatures refuse.

    `unseen`: expressions of no known type that something is looked up on, so that nothing can be checked.
    """

    absent: tuple[Finding, ...]
    wrong: tuple[Finding, ...]
    unseen: tuple[Finding, ...]


def check(paths: Sequence[Path], *, stubs: Path, scratch: Path) -> Findings:
    """Run mypy over these files with these stubs. Some seconds: without a cache, which would mix up the stubs."""
    config = scratch / "mypy.ini"
    config.write_text(_CONFIG.format(stubs=stubs, python=f"{sys.version_info.major}.{sys.version_info.minor}"))
    command = [sys.executable, "-m", "mypy", "--config-file", str(config), *map(str, paths)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), f"mypy could not run:\n{done.stdout}\n{done.stderr}"
    found = [finding for finding in _parsed(done.stdout) if finding.path in paths]
    absent, wrong, unseen = [], [], []
    for each in found:
        if match := _ABSENT.match(each.text):
            absent.append(replace(each, text=f"{match[1]}.{match[2]}"))
        elif not _UNKNOWN.match(each.text) and not _names_a_base(each):
            wrong.append(each)
        if each.text.startswith('Expression has type "Any"') and (name := _tree(each.path).get(each.place)):
            unseen.append(replace(each, text=name))
    return Findings(absent=tuple(absent), wrong=tuple(wrong), unseen=tuple(unseen))


def _parsed(output: str) -> Iterator[Finding]:
    for line in output.splitlines():
        if match := _LINE.fullmatch(line):
            path, *numbers, text = match.groups()
            first, column, last, end = map(int, numbers)
            yield Finding(path=ROOT / path, place=(first, column - 1, last, end), text=text)


@cache
def _tree(path: Path) -> Mapping[Place, str]:
    """What names are looked up on, by where it stands."""
    nodes = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute))
    bases = [node.value for node in nodes]
    return {(base.lineno, base.col_offset, base.end_lineno, base.end_col_offset): ast.unparse(base) for base in bases}


def _names_a_base(finding: Finding) -> bool:
    """mypy takes no attribute of a parameter as a base class; the tests look those up by name."""
    line = finding.path.read_text().splitlines()[finding.place[0] - 1].strip()
    return line.startswith("class ") and finding.text.endswith("[name-defined]")
