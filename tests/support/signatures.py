"""Signatures as extension modules tell them in docstrings: pybind11, Boost.Python and Cython, each its own way."""

from __future__ import annotations

import ast
import inspect
import keyword
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

Kind: TypeAlias = Literal["named", "unnamed", "keyword", "*", "**"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """`annotation` is the extension's own spelling; an `unnamed` one can only be given by its place."""

    name: str
    annotation: str = "object"
    optional: bool = False
    nullable: bool = False  # its default is None
    kind: Kind = "named"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    parameters: tuple[Parameter, ...]
    returns: str = "object"


def signatures(function: Any, name: str) -> list[Signature]:
    """All overloads of a function; none when it does not tell."""
    doc = inspect.getdoc(function) or ""
    if "C++ signature :" in doc:
        return list(_boost(doc, name))
    if found := list(_pybind(doc, name)):
        return found
    if isinstance(function, type(object.__init__)):
        return []  # a slot: what Python knows of it is not what it takes
    try:
        return [replace(_inspected(function), returns=_numpydoc_returns(doc))]
    except (TypeError, ValueError):
        return []


def _pybind(doc: str, name: str) -> Iterator[Signature]:
    for line in doc.splitlines():
        match = re.fullmatch(rf"(?:\d+\. )?{re.escape(name)}\((.*)\) -> (.*)", line.strip())
        if match is not None:
            parts = [part for part in _split(match[1]) if part != "/"]
            yield Signature(parameters=tuple(map(_pybind_parameter, parts)), returns=match[2])


def _pybind_parameter(text: str) -> Parameter:
    if text.startswith("*"):
        return Parameter(name=text.strip("*"), kind="**" if text.startswith("**") else "*")
    declared, _, default = text.partition(" = ")
    name, _, annotation = declared.partition(": ")
    return Parameter(
        name=name,
        annotation=annotation or "object",
        optional=bool(default),
        nullable=default == "None",
        kind="unnamed" if re.fullmatch(r"arg\d+", name) else "named",
    )


def _boost(doc: str, name: str) -> Iterator[Signature]:
    for match in re.finditer(rf"^{re.escape(name)}\((.*)\) -> (.*) :$", doc, re.MULTILINE):
        # `( (Event)arg1 [, (object)stream=None])`: brackets only say what the default says already.
        parts = _split(re.sub(r"\[(?=, \()|(?<=\s)\[(?=\()|\]+$", "", match[1]).replace(" ,", ",").strip())
        yield Signature(parameters=tuple(map(_boost_parameter, parts)), returns=match[2])


def _boost_parameter(text: str) -> Parameter:
    match = re.match(r"\((.+?)\)(\w+)(?:=(.*))?", text)
    if match is None:
        return Parameter(name="rest", kind="*")
    return Parameter(
        name=match[2],
        annotation=match[1],
        optional=match[3] is not None,
        nullable=match[3] == "None",
        kind="unnamed" if re.fullmatch(r"arg\d+", match[2]) else "named",
    )


_KINDS: dict[Any, Kind] = {
    inspect.Parameter.POSITIONAL_ONLY: "unnamed",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "named",
    inspect.Parameter.KEYWORD_ONLY: "keyword",
    inspect.Parameter.VAR_POSITIONAL: "*",
    inspect.Parameter.VAR_KEYWORD: "**",
}


def _inspected(function: Callable[..., Any]) -> Signature:
    found = inspect.signature(function).parameters.values()
    return Signature(
        parameters=tuple(
            Parameter(name=each.name, optional=each.default is not each.empty, kind=_KINDS[each.kind]) for each in found
        )
    )


def _numpydoc_returns(doc: str) -> str:
    """The tuple that a function of cuda-bindings returns, from its section `Returns`."""
    section = re.search(r"^Returns\n-+\n(.*?)(?:\n\n[A-Z][\w ]*\n-+\n|\Z)", doc, re.MULTILINE | re.DOTALL)
    if section is None or not section[1].startswith("CUresult"):
        return "object"
    entries = [line for line in section[1].splitlines() if line and not line.startswith(" ")]
    kinds = [re.sub(r":py:obj:`~?\.?(\w+)`", r"\1", entry.partition(" : ")[2] or entry) for entry in entries]
    return f"tuple[{', '.join(kind if _is_expression(kind) else 'object' for kind in kinds)}]"


def _split(text: str) -> list[str]:
    """Cut at the commas that are outside all brackets."""
    parts, depth, start = [], 0, 0
    for place, letter in enumerate(text):
        if letter in "([{<":
            depth += 1
        elif letter in ")]}" or (letter == ">" and text[place - 1] != "-"):
            depth -= 1
        elif letter == "," and depth == 0:
            parts.append(text[start:place])
            start = place + 1
    return [part.strip() for part in (*parts, text[start:]) if part.strip()]


def _is_expression(text: str) -> bool:
    try:
        ast.parse(text, mode="eval")
    except SyntaxError:
        return False
    return True


def render(name: str, signature: Signature, annotate: Callable[[str], str], *, bound: bool) -> str:
    """`(self, a: int, b: str = ...) -> None`; with `bound`, the first parameter is the object itself."""
    parameters = list(signature.parameters)
    if bound:
        own = parameters[0].kind if parameters else "unnamed"
        parameters = [Parameter(name="self", kind=own), *parameters[1:]]
    # What stands before a parameter that must be given, must be given too.
    needed = max((place for place, each in enumerate(parameters) if _is_needed(each)), default=-1)
    texts, unnamed, starred = [], False, False
    for number, each in enumerate(parameters):
        each = replace(each, optional=each.optional and (number > needed or each.kind == "keyword"))
        if unnamed and each.kind != "unnamed":
            texts.append("/")
        unnamed = each.kind == "unnamed"
        if each.kind == "keyword" and not starred:
            texts.append("*")
        starred = starred or each.kind in ("*", "keyword")
        texts.append("self" if bound and number == 0 else _rendered(each, annotate))
    if unnamed:
        texts.append("/")
    returns = "None" if name == "__init__" else annotate(signature.returns)
    return f"({', '.join(texts)}) -> {returns}"


# TensorRT makes its `Dims` of any sequence by itself.
_WIDER = {name: f"{name} | Sequence[int]" for name in ("Dims", "tensorrt.Dims")}


def _is_needed(parameter: Parameter) -> bool:
    return parameter.kind in ("named", "unnamed") and not parameter.optional


def _rendered(parameter: Parameter, annotate: Callable[[str], str]) -> str:
    name = f"{parameter.name}_" if keyword.iskeyword(parameter.name) else parameter.name
    if parameter.kind in ("*", "**"):
        return f"{parameter.kind}{name}: Any"
    annotation = _WIDER.get(annotate(parameter.annotation), annotate(parameter.annotation)) + (
        " | None" if parameter.nullable else ""
    )
    return f"{name}: {annotation}{' = ...' if parameter.optional else ''}"
