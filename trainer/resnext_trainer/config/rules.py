"""The base class of the configuration's models, the rules between fields, and the resume class of a field."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, get_args

from pydantic import ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from resnext_trainer.contract import CamelCaseModel


@dataclass(frozen=True)
class Rule:
    """A validation rule across fields: in CEL for the API server, in Python for the trainer, with one message for both.

    `cel` is evaluated on the user's input (fields may be absent), `holds` on the resolved model.
    """

    cel: str
    holds: Callable[[Any], bool]
    field: str
    """The field to report, in camelCase, relative to the model with the rule."""
    message: str


@dataclass(frozen=True)
class Resume:
    """What a change to a field means for a run that resumes from its checkpoints; part of the type of each field.

    The fields of a nested model have the class of the field that contains it, unless they declare their own.
    """

    name: Literal["recipe", "run"]
    """recipe: determines the trained weights; a change is handled according to checkpoint.onMismatch.
    run: determines how and where they are computed; a change is logged."""
    kept: bool = True
    """If the user does not set the field, the value of the run applies, so a changed default does not change a run."""


RECIPE, RUN = Resume("recipe"), Resume("run")
HERE = Resume("run", kept=False)
"""Specific to a machine or an attempt: the earlier value of a run does not apply."""


class Config(CamelCaseModel):
    """Base of the configuration models: frozen, strict, field names in camelCase, unknown fields rejected."""

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
    """Each leaf field, such as optimizer.learningRate, with its resume class, or None if it has none.

    inherited: the class of the field that contains the model.
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
