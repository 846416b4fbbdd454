"""The ConfigMap with the training configuration."""

import json

from resnext_operator.api.objects.shared import ConfigMap
from resnext_operator.api.training import Training
from resnext_operator.rendering import names
from resnext_operator.rendering.metadata import owned_metadata


def config_map(training: Training) -> ConfigMap:
    """Holds the resolved configuration, including the device, which is derived from the workers' GPU limit.

    It also holds the configuration as the user wrote it: only these fields are compared when a run resumes.
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
