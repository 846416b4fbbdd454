"""Operations of the model and peak of the GPU, for model FLOP utilization."""

from typing import get_args

import pytest

from resnext_trainer.config.models import PrecisionMode
from resnext_trainer.config.validation import resolve
from resnext_trainer.model.cost import flops
from resnext_trainer.model.peak_flops import _PEAKS, peak_flops, utilization

# Multiprocessors, highest clock in MHz, and floating-point operations per clock of a multiprocessor: in fp16 on tensor
# cores without sparsity, and in fp32 without tensor cores.
BOARDS = {
    "NVIDIA H200": (132, 1980, 4096, 256),
    "NVIDIA H200 NVL": (132, 1785, 4096, 256),
    "NVIDIA H100 80GB HBM3": (132, 1980, 4096, 256),
    "NVIDIA H100 NVL": (132, 1785, 4096, 256),
    "NVIDIA H100 PCIe": (114, 1755, 4096, 256),
    "NVIDIA A100-SXM4-40GB": (108, 1410, 2048, 128),
    "NVIDIA A100-SXM4-80GB": (108, 1410, 2048, 128),
    "NVIDIA A100-PCIE-40GB": (108, 1410, 2048, 128),
    "NVIDIA A100 80GB PCIe": (108, 1410, 2048, 128),
    "NVIDIA A10": (72, 1695, 1024, 256),
    "NVIDIA L40S": (142, 2520, 1024, 256),
    "NVIDIA L4": (58, 2040, 1024, 256),
    "Tesla T4": (40, 1590, 1024, 128),
    "Tesla V100-SXM2-16GB": (80, 1530, 1024, 128),
    "Tesla V100-SXM2-32GB": (80, 1530, 1024, 128),
}


@pytest.mark.parametrize("device", BOARDS)
def test_peak_follows_from_units_and_clock(device):
    """Values with sparsity would be twice as high. NVIDIA's peaks of Hopper's tensor cores correspond to 87 to 92 % of
    the highest clock.
    """
    multiprocessors, clock, tensor, scalar = BOARDS[device]
    at_highest_clock = multiprocessors * clock * 1e6
    before_ampere = device.startswith("Tesla")
    for precision, per_clock in (("fp16", tensor), ("bf16", tensor), ("tf32", tensor / 2), ("fp32", scalar)):
        peak = peak_flops(device, precision)  # type: ignore[arg-type]
        if before_ampere and precision in ("bf16", "tf32"):
            assert peak is None, precision
        else:
            assert peak is not None, precision
            slack = 0.14 if tensor == 4096 and precision != "fp32" else 0.013
            assert 1 - slack < peak / (per_clock * at_highest_clock) < 1.005, precision


def test_peak_table_has_only_verified_gpus():
    """A GPU without an independent value in this file has no peak."""
    assert {*_PEAKS} == {*BOARDS}


@pytest.mark.parametrize(
    "device",
    [
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",  # a part of the GPU
        "NVIDIA H100 80GB HBM3 MIG 3g.40gb",
        "NVIDIA H100 80GB HBM2e",
        "NVIDIA H100",
        "NVIDIA H20",
        "NVIDIA H800",
        "NVIDIA GH200 480GB",
        "NVIDIA A100-SXM-64GB",  # more multiprocessors
        "NVIDIA L40",  # not the L4 or L40S
        "NVIDIA A10G",  # slower than the A10
        "GRID A100-40C",  # a virtual GPU
        "Tesla V100-PCIE-16GB",
        "nvidia h200",
        "unknown",
        "",
    ],
)
def test_peak_of_other_device_is_unknown(device):
    """Reporting no value is better than reporting that of a similar GPU."""
    for precision in get_args(PrecisionMode):
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
