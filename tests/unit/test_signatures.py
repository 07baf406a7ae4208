from __future__ import annotations

import inspect

import pytest

from tests.support.signatures import render, signatures


class _Told:
    """Stands for a function of an extension module: all that is known of it is its docstring."""

    def __init__(self, doc: str) -> None:
        self.__doc__ = inspect.cleandoc(doc)


def _rendered(name: str, doc: str, *, bound: bool = True) -> list[str]:
    return [render(name, each, lambda text: text, bound=bound) for each in signatures(_Told(doc), name)]


def test_pybind_tells_names_types_and_defaults() -> None:
    doc = "parse(self: trt.OnnxParser, model: Buffer, path: str = None) -> bool\n\n:arg model: parse(this) -> not"
    assert _rendered("parse", doc) == ["(self, model: Buffer, path: str | None = ...) -> bool"]


def test_pybind_overloads_are_all_found() -> None:
    doc = """make(*args, **kwargs)
    Overloaded function.

    1. make(self: trt.Engine, strategy: trt.Strategy = <Strategy.STATIC: 0>) -> trt.Context

    2. make(self: trt.Engine, sizes: Dict[str, Tuple[int, int]]) -> trt.Context
    """
    assert _rendered("make", doc) == [
        "(self, strategy: trt.Strategy = ...) -> trt.Context",
        "(self, sizes: Dict[str, Tuple[int, int]]) -> trt.Context",
    ]


def test_unnamed_parameters_can_only_be_given_by_place() -> None:
    assert _rendered("Decode", "Decode(self: D, arg0: Packet) -> List[Frame]") == [
        "(self, arg0: Packet, /) -> List[Frame]"
    ]


def test_boost_tells_names_and_defaults() -> None:
    doc = """copy( (object)dest, (object)src [, (object)stream=None [, (int)flags=0]]) -> None :

        C++ signature :
            void copy(object,unsigned long long [,object=None [,unsigned int=0]])"""
    assert _rendered("copy", doc, bound=False) == [
        "(dest: object, src: object, stream: object | None = ..., flags: int = ...) -> None"
    ]


def test_boost_tells_every_overload() -> None:
    doc = """__call__( (Memcpy2D)self, (bool)aligned) -> None :

        C++ signature :
            void __call__(pycuda::memcpy_2d {lvalue},bool)

    __call__( (Memcpy2D)arg1, (Stream)arg2) -> None :

        C++ signature :
            void __call__(pycuda::memcpy_2d {lvalue},pycuda::stream)"""
    assert _rendered("__call__", doc) == ["(self, aligned: bool) -> None", "(self, arg2: Stream, /) -> None"]


def test_cuda_bindings_tell_what_comes_back() -> None:
    def cuGraphGetNodes(hGraph: object, numNodes: int = 0) -> None:
        """cuGraphGetNodes(hGraph, size_t numNodes=0)

        Parameters
        ----------
        hGraph : :py:obj:`~.CUgraph` or :py:obj:`~.cudaGraph_t`
            Graph to query

        Returns
        -------
        CUresult
            :py:obj:`~.CUDA_SUCCESS`
        nodes : list[:py:obj:`~.CUgraphNode`]
            Pointer to return the nodes
        numNodes : int
            See description

        See Also
        --------
        :py:obj:`~.cuGraphCreate`
        """

    (found,) = signatures(cuGraphGetNodes, "cuGraphGetNodes")
    assert found.returns == "tuple[CUresult, list[CUgraphNode], int]"
    assert [(each.name, each.optional) for each in found.parameters] == [("hGraph", False), ("numNodes", True)]


@pytest.mark.parametrize("hidden", [_Told("Does something."), object.__init__])
def test_what_tells_nothing_has_no_signature(hidden: object) -> None:
    assert signatures(hidden, "hidden") == []
