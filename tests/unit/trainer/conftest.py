"""Digits datasets and configurations of short trainings."""

from pathlib import Path

import pytest

from tests.support.configurations import short_training


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scikit-learn's digits as a dataset; tests that change it use a copy."""
    from resnext_trainer.data.datasets import digits

    folder = tmp_path_factory.mktemp("digits")
    digits.prepare(folder)
    return folder


@pytest.fixture
def settings(digits_folder, tmp_path):
    """Configuration of a training that takes seconds."""
    return short_training(digits_folder, tmp_path / "checkpoints") | {"labelSmoothing": 0.0}


@pytest.fixture(scope="session")
def few_digits(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 training and 40 validation images of the digits: an epoch takes less than a second."""
    from resnext_trainer.data.datasets import tfrecord

    folder = tmp_path_factory.mktemp("few-digits")
    for split, count in (("train", 96), ("validation", 40)):
        records = tfrecord.open_split(str(digits_folder), split)
        tfrecord.write(folder, split, [records.read(number) for number in range(count)], 2)
    return folder


@pytest.fixture
def few(settings, few_digits):
    """Configuration of two epochs of six steps, with a model that is traced in a second."""
    small = {"blocks": [1, 1], "groups": 8, "width": 4, "channels": 64, "stem": 32, "smallImages": True}
    return settings | {
        "model": {"architecture": "custom", "custom": small, "classes": 10, "imageSize": 16},
        "epochs": 2,
        "batchSize": 16,
        "optimizer": {"learningRate": 0.1},
        "data": {"path": str(few_digits), "pipeline": "tfdata"},
    }


@pytest.fixture
def pictures(few_digits, tmp_path):
    """The few digits as image files, in the order of their records within each class."""
    from resnext_trainer.data.datasets import tfrecord

    root = tmp_path / "pictures"
    for split in tfrecord.SPLITS:
        records = tfrecord.open_split(str(few_digits), split)
        for number in range(len(records)):
            jpeg, label = records.read(number)
            file = root / split / f"digit-{label - 1}" / f"{number:03d}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(jpeg)
    return root
