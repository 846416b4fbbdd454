"""Training configurations."""

from pathlib import Path
from typing import Any


def short_training(data: Path, checkpoints: Path) -> dict[str, Any]:
    """Configuration of a training on the digits, which takes seconds."""
    return {
        "model": {"architecture": "resnext17-8x4d", "classes": 10, "imageSize": 32},
        "epochs": 1,
        "batchSize": 64,
        "optimizer": {"learningRate": 0.4, "momentum": 0.9},
        "augmentation": {"flip": False, "cropArea": [0.7, 1.0]},
        "evaluation": {"cropFraction": 1.0},
        "precision": {"mode": "fp32"},
        "xla": False,
        "device": "cpu",
        "data": {"path": str(data), "pipeline": "tfdata"},
        "checkpoint": {"path": str(checkpoints)},
    }
