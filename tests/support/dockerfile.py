"""Enough of the Dockerfile language to check our own: instructions, stages, and what a stage is built on."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

INSTRUCTIONS = frozenset(
    (
        *("FROM", "ARG", "ENV", "LABEL", "RUN", "SHELL", "COPY", "ADD", "WORKDIR", "USER", "VOLUME", "EXPOSE"),
        *("STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One instruction: its name in capitals, and the rest of it with its continued lines joined."""

    name: str
    text: str
    line: int

    def flags(self) -> dict[str, str]:
        """Its leading `--name=value` options; the last of those that are repeated."""
        flags = (word for word in self.text.split() if word.startswith("--") and "=" in word)
        return {name[2:]: value for name, _, value in (flag.partition("=") for flag in flags)}

    def sources(self) -> list[str]:
        """What a COPY or ADD copies."""
        return [word for word in self.text.split() if not word.startswith("--")][:-1]

    def exec_form(self) -> list[str] | None:
        """The command of CMD, ENTRYPOINT or HEALTHCHECK when it is given as a JSON array, else None."""
        _, bracket, rest = self.text.partition("[")
        return list(json.loads(bracket + rest)) if bracket else None

    def pairs(self) -> dict[str, str]:
        """The NAME=VALUE pairs of ENV, ARG or LABEL."""
        return dict(word.partition("=")[::2] for word in shlex.split(self.text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What stands between a FROM and the next; `base` is a name of an image, a stage or `${ARG}`."""

    name: str
    base: str
    instructions: Sequence[Instruction]

    def named(self, name: str) -> list[Instruction]:
        return [each for each in self.instructions if each.name == name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dockerfile:
    """A parsed file: the ARGs before its first FROM, and its stages by name, in order."""

    arguments: Mapping[str, str]
    stages: Mapping[str, Stage]

    def lineage(self, name: str) -> list[Stage]:
        """The stage and those that it is built on, the first one first."""
        stage = self.stages[name]
        return [*(self.lineage(stage.base) if stage.base in self.stages else []), stage]

    def instructions(self, name: str) -> list[Instruction]:
        """All that an image of this stage is made of, in order."""
        return [each for stage in self.lineage(name) for each in stage.instructions]


def parse_dockerfile(text: str) -> Dockerfile:
    """Raises `ValueError` with the line of what a builder would not understand."""
    arguments: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    current: list[Instruction] = []
    for each in _instructions(text):
        if each.name == "FROM":
            found = re.fullmatch(r"(\S+) AS ([a-z0-9-]+)", each.text)
            if found is None or found[2] in stages:
                raise ValueError(f"line {each.line}: a FROM must give its stage a name of its own, not {each.text!r}")
            current = []
            stages[found[2]] = Stage(name=found[2], base=found[1], instructions=current)
        elif stages:
            current.append(each)
        elif each.name == "ARG":
            arguments.update(each.pairs())
        else:
            raise ValueError(f"line {each.line}: {each.name} stands before the first FROM")
    return Dockerfile(arguments=arguments, stages=stages)


def _instructions(text: str) -> Iterator[Instruction]:
    joined, begun_at = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        begun_at = begun_at or number
        joined += line.removesuffix("\\")
        if line.endswith("\\"):
            continue
        name, _, rest = joined.strip().partition(" ")
        if name not in INSTRUCTIONS:
            raise ValueError(f"line {begun_at}: there is no instruction {name!r}")
        yield Instruction(name=name, text=" ".join(rest.split()), line=begun_at)
        joined, begun_at = "", 0
    if joined:
        raise ValueError(f"line {begun_at}: the last instruction is not ended")
