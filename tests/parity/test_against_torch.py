"""Parity with PyTorch, torchvision and timm: logits, gradients, SGD and crops."""

import io
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy.stats import ks_2samp

from resnext_trainer.config.data import Augmentation
from resnext_trainer.data.crops import CropWindow, center_crop
from resnext_trainer.data.decoding import Decoding
from resnext_trainer.data.pipelines.tfdata import decoded
from resnext_trainer.data.random_crops import random_resized_crops
from resnext_trainer.model.architectures import ARCHITECTURES
from resnext_trainer.model.optimizer import SGDMomentum
from resnext_trainer.model.resnext import MEAN, STD, ResNeXt
from tests.support.images import encode

PEER = Path(__file__).with_name("torch_peer.py")
SETUP = Path(__file__).parents[2] / "hack" / "devenv"


@pytest.fixture(scope="module")
def timm_folder():
    """Directory in which hack/devenv installed timm."""
    cache = subprocess.run([sys.executable, SETUP, "cache"], check=True, capture_output=True, text=True).stdout.strip()
    return f"{cache}/timm"


@pytest.fixture
def torch(tmp_path, timm_folder):
    """Run a command of torch_peer.py with Debian's Python."""

    def run_peer(command, **arrays):
        np.savez(tmp_path / "in.npz", **arrays)
        done = subprocess.run(
            ["/usr/bin/python3", PEER, command, tmp_path / "in.npz", tmp_path / "out.npz"],
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": timm_folder},
        )
        assert done.returncode == 0, done.stderr
        return dict(np.load(tmp_path / "out.npz"))

    return run_peer


def network(architecture):
    """Model with random weights and statistics, so that a test fails if any two of them are swapped."""
    model = ResNeXt(ARCHITECTURES[architecture], classes=1000, symmetric=True)
    random = np.random.default_rng(0)
    for name, variable in {**model.weights, **model.statistics}.items():
        if name.endswith(("/scale", "/variance")):
            # Small scales of the last batch norm keep the activations small; otherwise they grow by a factor of 10^9,
            # and rounding decides the squeeze-and-excitation gates.
            variable.assign(random.uniform(0.5, 1.5, variable.shape) * (0.2 if name.endswith("expand/scale") else 1))
        elif name.endswith(("/offset", "/mean", "/bias")):
            variable.assign(random.normal(0, 0.1, variable.shape))
    return model


PARTS = {"reduce": "1", "grouped": "2", "expand": "3"}
NORMS = {"scale": "weight", "offset": "bias", "mean": "running_mean", "variance": "running_var"}


def torch_name(name):
    *block, part, kind = name.split("/")
    if part == "classifier":
        return {"kernel": "fc.weight", "bias": "fc.bias"}[kind]
    if part == "stem":
        return "conv1.weight" if kind == "kernel" else f"bn1.{NORMS[kind]}"
    stage, number = (int(re.sub(r"\D", "", each)) for each in block)
    layer = f"layer{stage}.{number - 1}"
    if part in ("squeeze", "excite"):
        return f"{layer}.se.fc{1 if part == 'squeeze' else 2}.{'weight' if kind == 'kernel' else 'bias'}"
    if part == "shortcut":
        return f"{layer}.downsample.0.weight" if kind == "kernel" else f"{layer}.downsample.1.{NORMS[kind]}"
    return f"{layer}.conv{PARTS[part]}.weight" if kind == "kernel" else f"{layer}.bn{PARTS[part]}.{NORMS[kind]}"


def torch_layout(name, value):
    """Convert a kernel from [height, width, in, out] to [out, in, height, width]; dense kernels to [out, in]."""
    if value.ndim == 4:
        return value.transpose(3, 2, 0, 1)
    if value.ndim == 2:
        value = value.T
        return value[:, :, None, None] if "/squeeze/" in name or "/excite/" in name else value
    return value


def translated(values):
    return {torch_name(name): torch_layout(name, tf.convert_to_tensor(value).numpy()) for name, value in values.items()}


def about(architecture):
    """Arguments with which torch_peer.py builds the same network."""
    return {"blocks": architecture.blocks, "groups": (architecture.groups, architecture.width)}


def pictures(count, size):
    images = np.random.default_rng(1).integers(0, 256, (count, size, size, 3), np.uint8)
    normal = ((images.astype(np.float32) - MEAN) / STD).astype(np.float32)
    return images, np.ascontiguousarray(normal.transpose(0, 3, 1, 2))


def logits_of_both(torch, architecture, **peer):
    """Logits of this implementation and of the reference for the same images and weights."""
    model = network(architecture)
    images, for_torch = pictures(2, 64)
    ours = model(tf.constant(images), training=False)[0].numpy()
    weights = translated({**model.weights, **model.statistics})
    theirs = torch("logits", images=for_torch, **(peer or about(model.architecture)), **weights)["logits"]
    assert np.std(theirs) > 0.1
    return ours, theirs


@pytest.mark.parametrize("architecture", ["resnext50-32x4d", "resnext101-64x4d", "resnet50"])
def test_logits_match_torchvision(torch, architecture):
    """With the same weights and images, the logits equal torchvision's."""
    ours, theirs = logits_of_both(torch, architecture)
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


@pytest.mark.parametrize("architecture", ["resnext101-32x4d", "se-resnext101-32x4d"])
def test_logits_match_timm(torch, architecture):
    """With the same weights and images, the logits equal timm's."""
    name = architecture.replace("se-", "se").replace("-", "_")
    ours, theirs = logits_of_both(torch, architecture, timm=name)
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_train_step_gradients_match_torch(torch):
    """Loss, gradients and batch norm statistics of one training step equal PyTorch's."""
    model = network("resnext50-32x4d")
    images, for_torch = pictures(8, 64)
    targets = np.random.default_rng(2).dirichlet(np.ones(1000), 8).astype(np.float32)
    with tf.GradientTape() as tape:
        logits, moved = model(tf.constant(images), training=True)
        loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, logits))
    gradients = dict(zip(model.weights, tape.gradient(loss, list(model.weights.values())), strict=True))
    weights = translated({**model.weights, **model.statistics})
    theirs = torch("step", images=for_torch, targets=targets, **about(model.architecture), **weights)
    assert float(loss) == pytest.approx(float(theirs["loss"]), rel=1e-5)
    for name, value in translated(gradients).items():
        expected = theirs[f"gradient {name}"]
        # Float32 through 50 layers of normalization: single elements differ by 1.5 % of the largest.
        assert np.linalg.norm(value - expected) < 0.02 * np.linalg.norm(expected), name
    for name, value in translated(moved).items():
        np.testing.assert_allclose(value, theirs[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_sgd_50_steps_match_torch(torch):
    """After fifty steps with momentum and weight decay, the weights equal those of torch.optim.SGD."""
    random = np.random.default_rng(0)
    momentum, decay, weight = 0.875, 1 / 16384, random.normal(0, 0.1, 1000).astype(np.float32)
    gradients = random.normal(0, 0.01, (50, 1000)).astype(np.float32)
    rates = [0.1 * (1 + math.cos(math.pi * step / 50)) for step in range(50)]
    theirs = torch("sgd", weight=weight, gradients=gradients, rates=rates, settings=(momentum, decay))["weight"]
    ours = tf.Variable(weight)
    optimizer = SGDMomentum({"w": ours}, momentum)
    for gradient, rate in zip(gradients, rates, strict=True):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(ours * gradient) + decay * tf.nn.l2_loss(ours)
        optimizer.apply([tape.gradient(loss, ours)], tf.constant(rate, tf.float32))
    assert np.abs(theirs - weight).max() > 0.1
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(375, 500), (20, 900)], ids=["usual", "too narrow for most draws"])
def test_random_crops_distributed_like_torchvision(torch, height, width):
    """Area, aspect ratio and position have the distribution of RandomResizedCrop."""
    settings, draws = Augmentation(), 50_000
    theirs = torch("crops", size=(height, width), scale=settings.crop_area, ratio=settings.crop_ratio, draws=draws)[
        "cuts"
    ]
    ours = random_resized_crops(0, 0, np.arange(draws), np.full(draws, height), np.full(draws, width), settings)
    features = {
        "area": lambda cut: cut[:, 2] * cut[:, 3],
        "ratio": lambda cut: cut[:, 3] / cut[:, 2],
        "top": lambda cut: cut[:, 0],
        "left": lambda cut: cut[:, 1],
    }
    for name, feature in features.items():
        # Kolmogorov-Smirnov: two samples of 50,000 from one distribution differ by more than this once in 1,000 times.
        assert ks_2samp(feature(ours), feature(theirs)).statistic < 1.95 * math.sqrt(2 / draws), name
    assert np.mean(ours[:, 4]) == pytest.approx(0.5, abs=0.01)


def test_center_crop_matches_torchvision(torch):
    """Resize and CenterCrop select the same part of the image."""
    sizes = [(256, 256), (375, 500), (500, 375), (333, 499), (257, 1025), (101, 97)]
    for (height, width), corners in zip(sizes, torch("center", sizes=sizes)["corners"], strict=True):
        cut = center_crop(height, width, 224 / 256, 224)
        (top, left, bottom, right), half = cut.roi, min(height, width) / 256 / 2
        # torchvision returns the centers of the outermost resized pixels, and rounds the longer side and the offset to
        # whole pixels.
        ours = (cut.top + top + half, cut.left + left + half, cut.top + bottom - half, cut.left + right - half)
        np.testing.assert_allclose(corners, ours, atol=2 * half)
        if (height * 256 / min(height, width)) % 2 == (width * 256 / min(height, width)) % 2 == 0:
            np.testing.assert_allclose(corners, ours, atol=1e-3)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("size", [(512, 768), (384, 576), (192, 288)], ids=["halved", "reduced", "enlarged"])
def test_resized_pixels_match_torchvision(torch, antialias, size):
    """Crops and centers have the pixels of Resize, for images that torchvision resizes without rounding their size."""
    random = np.random.default_rng(0)
    smooth = Image.fromarray(random.integers(0, 256, (24, 36, 3), np.uint8)).resize(size[::-1])
    jpeg = encode(Image.fromarray((np.asarray(smooth) + random.integers(0, 20, (*size, 3))).astype(np.uint8)))
    window = CropWindow(11, 30, 170, 201)
    with Image.open(io.BytesIO(jpeg)) as picture:
        corners = (window.top, window.left, window.height, window.width)
        theirs = torch("resized", picture=np.asarray(picture), antialias=antialias, window=corners)
    decoding = Decoding(224, antialias, fast=False)
    height, width = size
    for name, cut in (("crop", window), ("center", center_crop(height, width, 224 / 256, 224))):
        ours = decoded(tf.constant(jpeg), tf.constant(cut.numbers, tf.float32), decoding).numpy()
        assert np.abs(ours - theirs[name]).max() <= 1, name
