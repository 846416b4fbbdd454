"""Metadata in a checkpoint about the training that wrote it, so that a run resumes with the same recipe and dataset."""

from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.alias_generators import to_camel

from resnext_trainer.checkpoint import added_fields, renamed_fields
from resnext_trainer.checkpoint.lock import Holder
from resnext_trainer.config.models import Training
from resnext_trainer.data.fingerprint import Fingerprint


def version() -> str:
    """Version of the trainer, for messages."""
    try:
        return metadata.version("resnext-operator")
    except metadata.PackageNotFoundError:
        return "unknown"


class Provenance(BaseModel):
    """Origin of the weights. Ignores unknown fields, which a later version may add within the same format."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", alias_generator=to_camel, validate_by_name=True, validate_by_alias=True
    )

    config: Mapping[str, Any]
    """The resolved configuration, with field names in camelCase."""
    written: tuple[str, ...]
    """The fields that the user set, in this attempt or an earlier one."""
    class_names: tuple[str | None, ...]
    """Class names by index; None for a class without a name."""
    dataset: Fingerprint
    differences: tuple[str, ...] = ()
    """Changes to the recipe or dataset with which the run was resumed (onMismatch: continue)."""
    run: str = ""
    """ID of the run; empty for the run of checkpoint format 1."""
    training: str = ""
    """UID of the training."""
    attempt: int = 0
    version: str = ""
    """Version of the trainer."""

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, stored: Any) -> Any:
        if not isinstance(stored, Mapping):
            return stored
        return added_fields.with_added_fields(renamed_fields.with_current_names(stored))


def dumped(config: Training) -> dict[str, Any]:
    """A resolved configuration in its stored form."""
    return config.model_dump(mode="json", by_alias=True)


def of_attempt(
    config: Training,
    before: Provenance | None,
    dataset: Fingerprint,
    class_names: Sequence[str | None],
    differences: Sequence[str],
    run: str,
    holder: Holder,
) -> Provenance:
    """The provenance of the checkpoints of an attempt.

    before: the provenance of the checkpoint that the attempt resumes from, if any; its class names apply if the dataset
    has none. differences: those that the attempt accepts (onMismatch: continue). run: ID of the run.
    """
    if before and not any(class_names):
        class_names = before.class_names
    return Provenance(
        config=dumped(config),
        written=tuple(sorted(config.written | set(before.written if before else ()))),
        class_names=tuple(class_names),
        dataset=dataset,
        differences=(*before.differences, *differences) if before else (),
        run=run,
        training=holder.training,
        attempt=holder.attempt,
        version=version(),
    )
