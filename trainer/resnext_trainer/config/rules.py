"""The base class of the configuration's models, the rules between fields, and the resume class of a field."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, get_args

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


def resume_classes(
    model: type[Config], prefix: str = "", inherited: Resume | None = None
) -> Iterator[tuple[str, Resume | None]]:
    """Every field that holds a value, such as optimizer.learningRate, with its resume class; None if it has none.

    inherited: the class of the field that holds the model.
    """
    for field in model.model_fields.values():
        resume = next((each for each in field.metadata if isinstance(each, Resume)), inherited)
        nested = [kind for kind in (field.annotation, *get_args(field.annotation)) if _is_config(kind)]
        if nested:
            yield from resume_classes(nested[0], f"{prefix}{field.alias}.", resume)
        else:
            yield f"{prefix}{field.alias}", resume


def _is_config(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Config)
