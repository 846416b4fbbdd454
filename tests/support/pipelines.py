"""The input pipelines and their settings, for tests that must hold for each of them."""

from typing import Any

import numpy as np
import pytest

from resnext_trainer.data import native_decoder
from resnext_trainer.data.pipelines import dali

_NEEDS_DALI = pytest.mark.skipif(not dali.loads(), reason="DALI is not installed")

OTHERS = [
    pytest.param("native", marks=pytest.mark.skipif(not native_decoder.available(), reason="no resnext-native")),
    pytest.param("dali", marks=_NEEDS_DALI),
]
"""Names of the pipelines that are compared with tf.data."""

PIPELINES = ["tfdata", *OTHERS]

TRANSFERRED = [*OTHERS, pytest.param("dlpack", marks=_NEEDS_DALI)]
"""OTHERS, and DALI with the transfer that is not the default on CPUs; for `select`."""

RESIZES: dict[str, dict[str, Any]] = {
    "published": {"resize": {"antialias": False}, "fastDecode": True},
    "antialiased": {"resize": {"antialias": True}, "fastDecode": True},
    "accurate": {"resize": {"antialias": False}, "fastDecode": False},
    "antialiased and accurate": {"resize": {"antialias": True}, "fastDecode": False},
}
"""Fields of spec.training.data."""

ORDERS = ["random", "blocks"]


def select(pipeline: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The value of data.pipeline for a pipeline of TRANSFERRED, after its transfer has been selected."""
    if pipeline not in list(dali.Transfer):
        return pipeline
    monkeypatch.setenv(dali.TRANSFER, pipeline)
    return "dali"


def assert_same_images(pipeline: str, resize: str, images: np.ndarray, reference: np.ndarray) -> None:
    """Compares images of a pipeline with those of tf.data: uint8 [batch, size, size, 3].

    With antialiasing, DALI repeats the edge pixels of the window; the other filters end there.
    """
    difference = np.abs(images.astype(int) - reference.astype(int)).max(axis=(0, 3))
    border = 16 if pipeline == "dali" and RESIZES[resize]["resize"]["antialias"] else 1
    assert difference[1:-1, 1:-1].max() <= 1
    assert difference.max() <= border
