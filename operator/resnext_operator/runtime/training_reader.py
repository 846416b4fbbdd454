"""Parses cached trainings."""

from dataclasses import replace

from resnext_operator.api.objects import TrainingKey
from resnext_operator.api.operator_policy import OperatorPolicy
from resnext_operator.api.training import Training
from resnext_operator.api.validation import InvalidTraining, parse, read_leniently, stored_state
from resnext_operator.runtime.cached_objects import AnyObject
from resnext_operator.runtime.unstructured import key_of


def read(body: AnyObject, site: OperatorPolicy) -> Training:
    """The parsed resource. If its spec is invalid (an earlier version may have accepted it), only the valid parts."""
    try:
        return parse(body, site)
    except InvalidTraining as error:
        return read_leniently(body, site, str(error))


class TrainingReader:
    """Keeps each training as it was last read, because most reconciliations find the same spec, and many the same
    status."""

    def __init__(self, site: OperatorPolicy) -> None:
        self._site = site
        self._known: dict[TrainingKey, tuple[AnyObject, Training]] = {}

    def read(self, body: AnyObject) -> Training:
        """The parsed resource. The body must not be changed afterwards."""
        key = key_of(body)
        before, training = self._known.get(key, (None, None))
        if training is None or before is None or before.get("spec") != body.get("spec"):
            training = read(body, self._site)
        elif before is not body:
            training = replace(training, **stored_state(body))
        self._known[key] = body, training
        return training

    def forget(self, key: TrainingKey) -> None:
        """Release the memory of a training that ended or was deleted."""
        self._known.pop(key, None)
