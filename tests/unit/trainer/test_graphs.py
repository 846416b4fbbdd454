"""Graphs of functions: one for each owner, freed with it."""

import gc
import weakref

import tensorflow as tf

from resnext_trainer.model.graphs import compiled


class Owner:
    """An object with a variable."""

    def __init__(self, value, *, xla=False):
        self.xla, self.graphs = xla, {}
        self.variable = tf.Variable(value)


traces: list[bool] = []


@compiled
def scaled(owner, images):
    """Counts how often the function is traced."""
    traces.append(owner.xla)
    return owner.variable * images


def test_graph_traced_once_for_each_owner():
    """Each owner has its own variables, and its own graph of the same function."""
    traces.clear()
    one, other = Owner(2.0), Owner(3.0)
    for _ in range(2):
        assert float(scaled(one, tf.constant(5.0))) == 10
        assert float(scaled(other, tf.constant(5.0))) == 15
    assert len(traces) == 2


def test_graph_compiled_if_owner_requests_it():
    """XLA compiles only the graphs of owners with `xla`."""
    for xla in (True, False):
        owner = Owner(2.0, xla=xla)
        assert float(scaled(owner, tf.constant(5.0))) == 10
        (graph,) = owner.graphs.values()
        assert bool(graph.get_concrete_function(tf.constant(5.0)).function_def.attr["_XlaMustCompile"].b) is xla


def test_graph_freed_with_owner():
    """Variables of discarded states are freed, for example after a rollback."""
    owner = Owner(2.0)
    scaled(owner, tf.constant(5.0))
    variable = weakref.ref(owner.variable)
    del owner
    gc.collect()
    assert variable() is None
