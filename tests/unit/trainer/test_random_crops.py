"""Random crops of a batch: a function of seed, epoch and record, with the distribution of torchvision's."""

import numpy as np

from resnext_trainer.config.data import Augmentation
from resnext_trainer.data.random_crops import random_resized_crops

NUMBERS = np.arange(4000)


def crops(seed=0, epoch=0, numbers=NUMBERS, height=375, width=500, **settings):
    heights, widths = np.full(len(numbers), height), np.full(len(numbers), width)
    return random_resized_crops(seed, epoch, numbers, heights, widths, Augmentation(**settings))


def test_crops_depend_on_seed_epoch_and_record():
    """Crops depend on seed, epoch and record only, and not on the order or on the other records of the batch."""
    windows = crops()
    order = np.random.default_rng(0).permutation(len(NUMBERS))
    assert (crops(numbers=NUMBERS[order]) == windows[order]).all()
    assert (crops(numbers=NUMBERS[7:8]) == windows[7:8]).all()
    for other in (crops(seed=1), crops(epoch=1), crops(numbers=NUMBERS + 1_281_167)):
        assert (other != windows).any(axis=1).mean() > 0.99
    # Seed and epoch do not compensate each other.
    assert (crops(seed=1, epoch=0) != crops(seed=0, epoch=1)).any(axis=1).mean() > 0.99


def test_crops_any_image_size_inside_image():
    """Covers narrow images, for which no attempt fits."""
    for height, width in ((375, 500), (32, 32), (1, 1), (20, 900), (900, 20), (1, 700), (65_535, 2)):
        top, left, cut_height, cut_width, flip = crops(height=height, width=width).T
        assert (top >= 0).all()
        assert (left >= 0).all()
        assert (cut_height > 0).all()
        assert (cut_width > 0).all()
        assert (top + cut_height <= height).all()
        assert (left + cut_width <= width).all()
        assert set(flip) == {0, 1}


def test_crops_area_and_ratio_within_bounds():
    """The bounds hold within half a pixel per side, because windows are rounded."""
    _, _, height, width, _ = crops().T.astype(float)
    assert ((height + 0.5) * (width + 0.5) >= 0.08 * 375 * 500).all()
    assert ((width + 0.5) / (height - 0.5) >= 3 / 4).all()
    assert ((width - 0.5) / (height + 0.5) <= 4 / 3).all()
    areas = height * width / (375 * 500)
    assert areas.min() < 0.09
    assert areas.max() > 0.95


def test_crops_without_random_area_are_whole_or_center():
    """The center crop of an image whose ratio is out of bounds, and no flip if it is disabled."""
    whole = {"crop_area": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "flip": False}
    assert (crops(height=64, width=64, **whole) == [0, 0, 64, 64, 0]).all()
    assert (crops(height=40, width=100, **whole) == [0, 30, 40, 40, 0]).all()


def test_flips_do_not_depend_on_windows():
    """Flips are independent of positions and sizes; the parity tests compare the distribution with torchvision's."""
    assert np.abs(np.corrcoef(crops().astype(float).T)[4, :4]).max() < 0.06
