"""Group, version and kind of the resource, and the name of its controller."""

from resnext_trainer.config import manifests

GROUP, VERSION, PLURAL, KIND, SHORT = manifests.GROUP, manifests.VERSION, "resnexttrainings", manifests.KIND, "rnx"
RESOURCE = (GROUP, VERSION, PLURAL)
CONTROLLER_NAME = "resnext.dev/operator"
