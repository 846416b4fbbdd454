"""The base class of the configuration's models, the rules between fields, and the resume class of a field."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from pydantic import ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from resnext_trainer.contract import CamelCaseModel


@dataclass(frozen=True)
class Rule:
    """What two fields owe each other: in CEL for the API server, in Python for the trainer, with one sentence for both.

    `cel` sees what the user wrote (fields may be absent), `holds` the resolved model.
    """

    cel: str
    holds: Callable[[Any], bool]
    field: str
    """The field to name, in the user's spelling, relative to the model that carries the rule."""
    message: str


@dataclass(frozen=True)
class Resume:
    """What a change of a field means for a run that is resumed from its checkpoints; part of each field's type.

    The fields of a nested model have the class of the field that holds it, unless they declare their own.
    """

    name: Literal["recipe", "run"]
    """recipe: part of what the weights are; a change is rejected unless checkpoint.onMismatch says otherwise.
    run: how and where they are computed; a change is logged."""
    kept: bool = True
    """The run's value applies where the user writes none, so that a changed default changes no run."""


RECIPE, RUN = Resume("recipe"), Resume("run")
HERE = Resume("run", kept=False)
"""Depends on the machine, or holds for one attempt: a run's earlier value means nothing elsewhere."""


class Config(CamelCaseModel):
    """Frozen, strict, and in the user's camelCase; unknown fields are refused as the API server would."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _keeps_its_rules(self) -> Self:
        for rule in self.rules:
            if not rule.holds(self):
                raise PydanticCustomError("rule", "{message}", {"message": rule.message, "field": rule.field})
        return self
