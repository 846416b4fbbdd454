"""Runs functions as TensorFlow graphs, traced once per object whose variables they use."""

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import tensorflow as tf

P = ParamSpec("P")
R = TypeVar("R")


class GraphOwner(Protocol):
    """Owns variables and the graphs that were traced for them, so that both are freed together."""

    xla: bool
    """Whether to compile the graphs with XLA."""
    graphs: dict[Any, Any]
    """The graphs by function."""


Owner = TypeVar("Owner", bound=GraphOwner)


def graph(function: Callable[Concatenate[Owner, P], R], *, xla: bool) -> Callable[Concatenate[Owner, P], R]:
    """Wraps a function to run as a graph; its first argument owns the variables.

    xla: compile with XLA if the owner's `xla` is set, which is read when the graph is traced.
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
    """Decorator: runs the function as a graph, compiled with XLA if `xla` of its first argument is set."""
    return graph(function, xla=True)


def traced(function: Callable[Concatenate[Owner, P], R]) -> Callable[Concatenate[Owner, P], R]:
    """Decorator: runs the function as a graph without XLA, which cannot compile communication between ranks."""
    return graph(function, xla=False)
