"""Export of trained models: uint8 images in, logits out, normalization included.

Each export is written under a temporary name, reloaded, compared with the trainer's logits, and then renamed.
"""

import importlib.util
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from resnext_trainer.contract import ExitStatus
from resnext_trainer.data import labels
from resnext_trainer.errors import TrainingError
from resnext_trainer.model.resnext import ResNeXt

Format = Literal["saved-model", "onnx"]

NAMES: Mapping[Format, str] = {"saved-model": "saved_model", "onnx": "model.onnx"}
"""File or directory name of each format in the output folder."""

_OPSET = 17
"""ONNX opset of 2022, which all current runtimes support; the model needs at least opset 13."""

_TOLERANCE = 1e-3
"""Maximum difference of a logit relative to the largest logit; float32 sums in a different order differ by 1e-6."""

_BATCHES = (3, 1)
"""Batch sizes compared; several, because the batch size of the export must be variable."""

_Logits = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Exported:
    """An export whose logits match the trainer's."""

    path: Path
    difference: float
    """Maximum absolute difference from the trainer's logits."""
    greatest: float
    """Maximum absolute logit of the trainer."""


def write(model: ResNeXt, image_size: int, output: Path, form: Format) -> Exported:
    """Writes one format, replacing an earlier export; raises TrainingError if packages are missing or logits differ."""
    if form == "onnx" and (missing := [name for name in ("tf2onnx", "onnxruntime") if not _is_installed(name)]):
        raise TrainingError(
            ExitStatus.INVALID_CONFIGURATION,
            f"ONNX export requires {' and '.join(missing)}: install resnext-operator[onnx], or pass "
            "--format saved-model",
        )
    output.mkdir(parents=True, exist_ok=True)
    path = output / NAMES[form]
    aside = path.with_name(f".{path.name}.writing")
    _remove(aside)
    save, load = (_save_saved_model, _load_saved_model) if form == "saved-model" else (_save_onnx, _load_onnx)
    try:
        save(model, image_size, aside)
        difference, greatest = _compared(model, load(aside), image_size)
        # Negated, so that NaN logits fail as well.
        if not difference <= _TOLERANCE * max(1.0, greatest):
            raise TrainingError(
                ExitStatus.CRASHED,
                f"{path} was not written: its logits differ from the trainer's by {difference:.3g} (max |logit| "
                f"{greatest:.3g}): select another format with --format",
            )
        _remove(path)
        aside.rename(path)
    finally:
        _remove(aside)
    return Exported(path, difference, greatest)


def describe(output: Path, facts: Mapping[str, Any], classes: Sequence[str | None]) -> None:
    """Writes model.json and, if there are class names, labels.txt, in which an empty line means no name."""
    (output / "model.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    file = output / labels.LABELS
    if any(classes):
        file.write_text(labels.text([name or "" for name in classes]), encoding="utf-8")
    else:
        file.unlink(missing_ok=True)  # from an earlier export


def _compared(model: ResNeXt, loaded: _Logits, image_size: int) -> tuple[float, float]:
    random, difference, greatest = np.random.default_rng(0), 0.0, 0.0
    for size in _BATCHES:
        images = random.integers(0, 256, (size, image_size, image_size, 3), np.uint8)
        ours = model(tf.constant(images), training=False)[0].numpy()
        # np.maximum propagates NaN; Python's max may not.
        difference = float(np.maximum(difference, np.abs(ours - loaded(images)).max()))
        greatest = float(np.maximum(greatest, np.abs(ours).max()))
    return difference, greatest


class _Serving(tf.Module):  # type: ignore[misc]  # TensorFlow ships no types
    def __init__(self, model: ResNeXt) -> None:
        super().__init__()
        self.kept = [*model.weights.values(), *model.statistics.values()]


def _function(model: ResNeXt, image_size: int) -> tuple[Any, Any]:
    """The model as a function from `images` to `logits`, and the signature of `images`."""
    signature = tf.TensorSpec([None, image_size, image_size, 3], tf.uint8, name="images")
    return tf.function(lambda images: {"logits": model(images, training=False)[0]}, autograph=False), signature


def _save_saved_model(model: ResNeXt, image_size: int, to: Path) -> None:
    function, signature = _function(model, image_size)
    tf.saved_model.save(_Serving(model), str(to), signatures=function.get_concrete_function(signature))


def _load_saved_model(path: Path) -> _Logits:
    loaded = tf.saved_model.load(str(path))
    serve = loaded.signatures["serving_default"]
    # The function holds no reference to its variables, so the closure keeps `loaded` alive.
    return lambda images: np.asarray(serve(images=tf.constant(images))["logits"] if loaded else ())


def _save_onnx(model: ResNeXt, image_size: int, to: Path) -> None:
    import tf2onnx.convert

    function, signature = _function(model.with_native_groups(), image_size)  # ONNX has grouped convolutions
    tf2onnx.convert.from_function(function, input_signature=[signature], opset=_OPSET, output_path=str(to))


def _load_onnx(path: Path) -> _Logits:
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run(["logits"], {"images": images})[0])


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
