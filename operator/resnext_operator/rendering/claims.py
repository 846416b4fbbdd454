"""The PersistentVolumeClaim for checkpoints."""

from resnext_operator.api.objects.shared import PersistentVolumeClaim, PersistentVolumeClaimSpec
from resnext_operator.api.training import Training
from resnext_operator.rendering import names
from resnext_operator.rendering.metadata import unowned_metadata


def creates_checkpoint_claim(training: Training) -> bool:
    return training.spec.checkpoints.claim_name is None


def checkpoint_claim_name(training: Training) -> str:
    """Name of the existing claim that the spec names, or of the claim that the operator creates."""
    return training.spec.checkpoints.claim_name or names.claim_name(training.name)


def checkpoint_claim(training: Training) -> PersistentVolumeClaim:
    """The claim for checkpoints. It has no owner reference: deleting a training keeps its checkpoints."""
    template = training.spec.checkpoints.template
    spec: PersistentVolumeClaimSpec = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": str(template.size) if template else "10Gi"}},
    }
    if template and template.storage_class_name:
        spec["storageClassName"] = template.storage_class_name
    metadata = unowned_metadata(training, names.claim_name(training.name))
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}
