"""Operations of the model and peak of the GPU, for model FLOP utilization."""

import pytest

from resnext_trainer.config.validation import resolve
from resnext_trainer.model.cost import flops
from resnext_trainer.model.peak_flops import peak_flops, utilization


@pytest.mark.parametrize(
    ("device", "precision", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", "fp16", 989.4),
        ("NVIDIA H200", "tf32", 494.7),
        ("NVIDIA H100 PCIe", "bf16", 756),
        ("NVIDIA A100-SXM4-80GB", "fp32", 19.5),
        ("Tesla V100-SXM2-16GB", "fp16", 125),
    ],
)
def test_peak_is_found_by_device_name(device, precision, tera):
    """The names are those of the driver."""
    assert peak_flops(device, precision) == tera * 1e12


@pytest.mark.parametrize(
    ("device", "precision"),
    [
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "fp16"),  # a part of the GPU
        ("NVIDIA L40", "fp16"),  # not the L4 or L40S
        ("NVIDIA A10G", "fp16"),  # slower than the A10
        ("Tesla V100-SXM2-16GB", "tf32"),  # has no such tensor cores
        ("Tesla T4", "bf16"),
        ("unknown", "fp32"),
    ],
)
def test_peak_of_other_device_is_unknown(device, precision):
    """Reporting no value is better than reporting that of a similar GPU."""
    assert peak_flops(device, precision) is None
    assert utilization(100.0, 10, None) is None


def test_utilization_is_part_of_peak():
    """Images per second times operations per image, divided by the peak."""
    assert utilization(2000.0, 48 * 10**9, 960e12) == pytest.approx(0.1)


def test_flops_follow_from_layers():
    """Counted by hand for a network of one block: a multiply-accumulate is two operations, and gradients need twice
    the products of the forward pass, except in the first layer, because the images need no gradient.
    """
    custom = {"blocks": [1], "groups": 4, "width": 4, "channels": 32, "stem": 8, "smallImages": True}
    model = resolve({"model": {"architecture": "custom", "custom": custom, "classes": 10, "imageSize": 16}}).model
    stem = 16 * 16 * 3 * 3 * 3 * 8
    # Reduce; with stride 2, the 3x3 convolution of 4 channels per group, expand, and the projection of the shortcut.
    block = 16 * 16 * 8 * 16 + 8 * 8 * (3 * 3 * 4 * 16 + 16 * 32 + 8 * 32)
    forward = stem + block + 32 * 10
    assert flops(model) == (2 * forward, 2 * (3 * forward - stem))
