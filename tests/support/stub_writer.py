"""Writes type stubs of the real NVIDIA modules by asking them, for mypy to hold our calls against.

python -m tests.support.stub_writer FOLDER MODULE=NAME:CLASS ...     imports MODULE, writes FOLDER/NAME.pyi

A function that hides its signature is marked, so that mypy tells of its use. The package `nvidia_modules` gets each
module once more, as a class: the type of a parameter that is such a module. Runs in a process of its own, as the
modules exclude each other.
"""

from __future__ import annotations

import ast
import enum
import importlib
import inspect
import keyword
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.support.signatures import Signature, render, signatures

MODULES = "nvidia_modules"
HEAD = """\
import builtins
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, SupportsFloat, SupportsIndex, SupportsInt, overload
from typing_extensions import deprecated
"""
HIDDEN = 'deprecated("its signature is hidden, so nothing checks this call")'
# What no docstring tells: memory that `bytes` can read.
BUFFERS = ("IHostMemory",)
# What else their docstrings call a type. Everything unknown is Any.
TYPES = {
    # Spelled out, because TensorRT has a `bool` of its own.
    **{name: f"builtins.{name}" for name in ("int", "float", "bool", "str", "bytes")},
    **{name: f"builtins.{name.lower()}[Any]" for name in ("list", "List", "set", "Set")},
    **dict.fromkeys(("dict", "Dict"), "builtins.dict[Any, Any]"),
    **dict.fromkeys(("tuple", "Tuple"), "builtins.tuple[Any, ...]"),
    "None": "None",
    "SupportsInt": "SupportsInt",
    "SupportsFloat": "SupportsFloat",
    "SupportsIndex": "SupportsIndex",
}
# Methods that Python calls by itself, and that mypy should know.
_CALLED = ("init", "call", "getitem", "setitem", "len", "iter", "next", "contains", "enter", "exit", "int", "index")
OPERATORS = frozenset(f"__{name}__" for name in (*_CALLED, "and", "or", "xor", "cuda_array_interface"))


class Stub:
    """The stub of one module."""

    def __init__(self, module: ModuleType, name: str) -> None:
        self._module = module
        self._name = name
        self._roots = {name.partition(".")[0], module.__name__.partition(".")[0]}
        self._known: dict[type, str] = {}
        self._prefix = ""  # of our classes' names, where they are named from outside
        self._roots |= {
            value.__module__.partition(".")[0].lstrip("_")
            for value in vars(module).values()
            if _is_extension_type(value)
        }
        self._learn(vars(module), "")
        self._by_name = {path.rpartition(".")[2]: path for path in reversed(self._known.values())}
        self._by_name |= {path: path for path in self._known.values()}

    def _learn(self, names: Any, prefix: str) -> None:
        """Find every class, by the shortest path to it."""
        found = [
            (name, value)
            for name, value in names.items()
            if isinstance(value, type) and self._is_ours(value.__module__)
        ]
        fresh = [(name, value) for name, value in found if value not in self._known and _is_public(name)]
        # A class stands where it calls itself so; elsewhere it is an alias.
        for name, value in sorted(fresh, key=lambda item: item[0] != item[1].__name__):
            self._known.setdefault(value, prefix + name)
        for name, value in fresh:
            if self._known[value] == prefix + name:
                self._learn(vars(value), f"{prefix}{name}.")

    def _is_ours(self, module: str | None) -> bool:
        # Extensions leave out the module of what they define; what Python code defines or imports has one.
        return module is None or module.partition(".")[0].lstrip("_") in self._roots

    def annotate(self, text: str) -> str:
        """A docstring's name for a type as this stub spells it."""
        # C++'s own name stands where a class was told to Python only later: nvonnxparser::IParserError.
        text = text.replace("::", ".")
        try:
            return self._annotated(ast.parse(text, mode="eval").body)
        except SyntaxError:
            return "Any"

    def _annotated(self, node: ast.expr) -> str:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            return f"{self._annotated(node.left)} | {self._annotated(node.right)}"
        if isinstance(node, ast.Subscript):
            outer = self._annotated(node.value)
            inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            plain = outer.partition("[")[0]
            if plain not in ("builtins.list", "builtins.dict", "builtins.tuple", "builtins.set"):
                return "Any"
            return f"{plain}[{', '.join(map(self._annotated, inner))}]"
        path = ast.unparse(node).split(".")
        if not all(part.isidentifier() for part in path):
            return "Any"
        for start in range(len(path)):  # the longest tail that is a class of ours
            if known := self._by_name.get(".".join(path[start:])):
                return self._prefix + known
        if known := self._by_name.get(path[-1].removeprefix("I")):
            return self._prefix + known
        return TYPES.get(path[-1], "Any")

    def lines(self) -> Iterator[str]:
        """The module's stub."""
        yield HEAD
        for name, value in self._public():
            yield from self._member(name, value, "", "")
        yield "__version__: builtins.str"

    def as_class(self, class_name: str) -> Iterator[str]:
        """A class with the names of the module as its attributes."""
        yield f"{HEAD}import {self._name}\n\nclass {class_name}:"
        self._prefix = f"{self._name}."
        for name, value in self._public():
            if isinstance(value, type):
                yield f"    {name}: type[{self._prefix}{self._known[value]}]"
            elif callable(value) and type(value) not in self._known:
                yield from self._function(name, value, "    ", bound=False, decorators=("staticmethod",))
            else:
                yield from self._member(name, value, "", "    ")
        yield "    __version__: builtins.str"
        self._prefix = ""

    def _public(self) -> Iterator[tuple[str, Any]]:
        """The module's own names, without what it imported from elsewhere."""
        for name, value in vars(self._module).items():
            own = not inspect.ismodule(value) and self._is_ours(getattr(value, "__module__", None))
            if _is_public(name) and (value in self._known if isinstance(value, type) else own):
                yield name, value

    def _member(self, name: str, value: Any, owner: str, indent: str) -> Iterator[str]:
        if isinstance(value, type):
            yield from self._class(name, value, owner, indent)
        elif isinstance(value, (staticmethod, classmethod)):
            yield from self._function(name, value.__func__, indent, bound=False, decorators=("staticmethod",))
        elif isinstance(value, property):
            yield from self._property(name, value, indent)
        elif type(value) in self._known:
            kind = self._prefix + self._known[type(value)]
            yield f"{indent}{name}: ClassVar[{kind}]" if owner else f"{indent}{name}: {kind}"
        elif type(value) in (int, float, str, bytes, bool):
            yield f"{indent}{name}: builtins.{type(value).__name__}"
        elif callable(value):
            yield from self._function(name, value, indent, bound=bool(owner), decorators=())
        else:
            yield f"{indent}{name}: Any"

    def _class(self, name: str, kind: type, owner: str, indent: str) -> Iterator[str]:
        path = self._known.get(kind)
        if path is None:
            yield f"{indent}{name}: Any"
            return
        if path != (f"{owner}.{name}" if owner else name):
            yield f"{indent}{name} = {path}"
            return
        yield f"{indent}class {name}({self._bases(kind)}):"
        inner = indent + "    "
        if hasattr(kind, "__getitem__") and not hasattr(kind, "__iter__"):  # what `iter` then goes by
            item = next(iter(signatures(vars(kind).get("__getitem__"), "__getitem__")), None)
            yield f"{inner}def __iter__(self) -> Iterator[{self.annotate(item.returns) if item else 'Any'}]: ..."
        yield f"{inner}__doc__: builtins.str"
        if issubclass(kind, enum.Enum) or hasattr(kind, "__members__"):
            yield from (f"{inner}name: builtins.str", f"{inner}value: builtins.int")
            yield f"{inner}__members__: ClassVar[builtins.dict[builtins.str, {path}]]"
        if name in BUFFERS:
            yield f"{inner}def __buffer__(self, flags: builtins.int, /) -> builtins.memoryview: ..."
        for attribute, value in vars(kind).items():
            if _is_public(attribute) or attribute in OPERATORS:
                if hasattr(kind, "__members__") and attribute in ("name", "value", "__init__"):
                    continue
                yield from self._member(attribute, value, path, inner)

    def _bases(self, kind: type) -> str:
        bases = []
        for base in kind.__bases__:
            if base in self._known:
                bases.append(self._known[base])
            elif base in (int, str) or issubclass(base, BaseException):
                bases.append(f"builtins.{base.__name__}")
            elif issubclass(base, int):
                bases.append("builtins.int")
        return ", ".join(bases) or "builtins.object"

    def _property(self, name: str, value: property, indent: str) -> Iterator[str]:
        read = next(iter(_told(value.fget)), None)
        kind = self.annotate(read.returns) if read else "Any"
        yield f"{indent}@property"
        yield f"{indent}def {name}(self) -> {kind}: ..."
        if value.fset is not None:
            written = next((each for each in _told(value.fset) if len(each.parameters) > 1), None)
            taken = self.annotate(written.parameters[1].annotation) if written else "Any"
            yield f"{indent}@{name}.setter"
            yield f"{indent}def {name}(self, value: {taken}) -> None: ..."

    def _function(
        self, name: str, function: Any, indent: str, *, bound: bool, decorators: Sequence[str]
    ) -> Iterator[str]:
        found = signatures(function, getattr(function, "__name__", name))
        above = [*decorators, *(["overload"] if len(found) > 1 else []), *([] if found else [HIDDEN])]
        texts = [render(name, each, self.annotate, bound=bound) for each in found]
        anything = "self, *args: Any, **kwargs: Any" if bound else "*args: Any, **kwargs: Any"
        hidden = f"({anything}) -> {'None' if name == '__init__' else 'Any'}"
        for text in texts or [hidden]:
            yield from (f"{indent}@{decorator}" for decorator in above)
            yield f"{indent}def {name}{text}: ..."


def _told(accessor: Any) -> list[Signature]:
    """What a property's function tells: pybind11 leaves its name out."""
    doc = getattr(accessor, "__doc__", None) or ""
    named = type("Named", (), {"__doc__": f"it{doc.strip()}" if doc.strip().startswith("(") else doc})
    return signatures(named, "it")


def _is_public(name: str) -> bool:
    return name.isidentifier() and not name.startswith("__") and not keyword.iskeyword(name)


def _is_extension_type(value: Any) -> bool:
    return isinstance(value, type) and type(value).__name__ in ("pybind11_type", "class")


def main(arguments: Sequence[str]) -> None:
    # NVIDIA's own libraries are not here: what is called of them is looked up when it is called, so never.
    sys.setdlopenflags(os.RTLD_LAZY)
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    for argument in arguments[1:]:
        source, _, rest = argument.partition("=")
        name, _, class_name = rest.partition(":")
        stub = Stub(importlib.import_module(source), name)
        _write(folder, name, stub.lines())
        _write(folder, f"{MODULES}.{class_name}", stub.as_class(class_name))


def _write(folder: Path, module: str, lines: Iterable[str]) -> None:
    path = folder.joinpath(*module.split(".")).with_suffix(".pyi")
    path.parent.mkdir(parents=True, exist_ok=True)
    for parent in list(path.relative_to(folder).parents)[:-1]:
        (folder / parent / "__init__.pyi").touch()
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
