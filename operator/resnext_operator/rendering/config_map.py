"""The ConfigMap with the training configuration."""

import json

from resnext_operator.api.objects.shared import ConfigMap
from resnext_operator.api.training import Training
from resnext_operator.rendering import names
from resnext_operator.rendering.metadata import owned_metadata


def config_map(training: Training) -> ConfigMap:
    """The resolved configuration, device included: whether GPUs were asked for is known here.

    Next to it what the user wrote: a run that resumes is compared by these fields alone.
    """
    device = "gpu" if training.spec.workers.gpus else "cpu"
    resolved = training.spec.training.model_copy(update={"device": device})
    contents = {
        names.CONFIG_FILE: resolved.model_dump(mode="json", by_alias=True, exclude_none=True),
        names.WRITTEN_FILE: training.written,
    }
    data = {file: json.dumps(content, indent=2) + "\n" for file, content in contents.items()}
    metadata = owned_metadata(training, names.config_map_name(training.name))
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
