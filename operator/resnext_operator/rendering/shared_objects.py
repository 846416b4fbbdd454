"""The objects that all attempts of a training share."""

from resnext_operator.api.objects.shared import SharedObject
from resnext_operator.api.training import Training
from resnext_operator.rendering.claims import checkpoint_claim, creates_checkpoint_claim
from resnext_operator.rendering.config_map import config_map
from resnext_operator.rendering.network_policy import network_policy


def shared_objects(training: Training) -> list[SharedObject]:
    """The objects that all attempts share, except the Secret with the SSH keys."""
    children: list[SharedObject] = [config_map(training), network_policy(training)]
    return [*children, checkpoint_claim(training)] if creates_checkpoint_claim(training) else children
