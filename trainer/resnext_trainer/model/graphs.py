"""Functions that run as graphs of TensorFlow, each traced once for the object whose variables it reads or changes."""

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import tensorflow as tf

P = ParamSpec("P")
R = TypeVar("R")


class GraphOwner(Protocol):
    """Has variables, and keeps the graphs that were traced for them, so that both are freed together."""

    xla: bool
    """Whether XLA compiles the graphs."""
    graphs: dict[Any, Any]
    """The graphs by function."""


Owner = TypeVar("Owner", bound=GraphOwner)


def graph(function: Callable[Concatenate[Owner, P], R], *, xla: bool) -> Callable[Concatenate[Owner, P], R]:
    """The function, run as a graph; its first argument owns the variables. `xla`: compiled by XLA if the owner says so.

    The setting is read when the graph is traced, not within it: XLA then compiles exactly what is used.
    """

    @functools.wraps(function)
    def call(owner: Owner, /, *arguments: P.args, **named: P.kwargs) -> R:
        if (traced := owner.graphs.get(function)) is None:
            body = functools.partial(function, owner)
            traced = tf.function(body, jit_compile=xla and owner.xla, autograph=False)
            owner.graphs[function] = traced
        result: R = traced(*arguments, **named)
        return result

    return call


def compiled(function: Callable[Concatenate[Owner, P], R]) -> Callable[Concatenate[Owner, P], R]:
    """Decorator: runs the function as a graph that XLA compiles if its first argument, the owner, says so."""
    return graph(function, xla=True)


def traced(function: Callable[Concatenate[Owner, P], R]) -> Callable[Concatenate[Owner, P], R]:
    """Decorator: runs the function as a graph without XLA, which cannot compile an exchange between ranks."""
    return graph(function, xla=False)
