"""The published recipes by name (NVIDIA's ResNeXt101-32x4d for TensorFlow), as user input."""

from collections.abc import Mapping
from typing import Any, Literal

Name = Literal["resnext101-32x4d-90ep", "resnext101-32x4d-250ep"]

BATCH_SIZE: Mapping[str, int] = {"fp16": 256, "bf16": 256, "tf32": 128, "fp32": 64}
"""Images per GPU and step of the published results, by precision (A100)."""

_RECIPE: Mapping[str, Any] = {
    "model": {"architecture": "resnext101-32x4d", "classes": 1000, "imageSize": 224},
    "optimizer": {"learningRate": 0.256, "momentum": 0.875, "weightDecay": 1 / 16384},
    "labelSmoothing": 0.1,
    "augmentation": {"cropArea": [0.08, 1.0], "cropRatio": [3 / 4, 4 / 3], "flip": True},
    "data": {"resize": {"antialias": False}, "fastDecode": True},
    "evaluation": {"cropFraction": 0.875},
}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "resnext101-32x4d-90ep": {**_RECIPE, "epochs": 90, "mixup": 0.0},
    "resnext101-32x4d-250ep": {**_RECIPE, "epochs": 250, "mixup": 0.2},
}
