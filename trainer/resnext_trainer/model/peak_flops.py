"""Peak throughput of GPUs, from NVIDIA's data sheets, for model FLOP utilization."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from resnext_trainer.config.models import PrecisionMode


class _Peak(NamedTuple):
    """TFLOPS without sparsity; None if the GPU does not support the precision in its tensor cores."""

    fp16: float
    bf16: float | None
    tf32: float | None
    fp32: float
    """Without tensor cores."""


_PEAKS: Mapping[str, _Peak] = {
    r"NVIDIA H200|NVIDIA H100 80GB HBM3": _Peak(989.4, 989.4, 494.7, 66.9),
    r"NVIDIA H100 PCIe": _Peak(756, 756, 378, 51),
    r"NVIDIA H100 NVL|NVIDIA H200 NVL": _Peak(835.5, 835.5, 417.5, 60),
    r"NVIDIA A100-SXM4-\d+GB|NVIDIA A100-PCIE-40GB|NVIDIA A100 80GB PCIe": _Peak(312, 312, 156, 19.5),
    r"NVIDIA A10": _Peak(125, 125, 62.5, 31.2),
    r"NVIDIA L40S": _Peak(362, 362, 183, 91.6),
    r"NVIDIA L4": _Peak(121, 121, 60, 30.3),
    r"Tesla T4": _Peak(65, None, None, 8.1),
    r"Tesla V100-SXM2-\d+GB": _Peak(125, None, None, 15.7),
}
"""By the name that the driver reports. Data sheets of 2017 (V100) to 2024 (H200); those from A100 on state twice the
value for tensor cores, with sparsity, which training does not use."""


def peak_flops(device: str, precision: PrecisionMode) -> float | None:
    """Operations per second of a GPU at a precision; None if the table does not have the GPU."""
    for names, peak in _PEAKS.items():
        if re.fullmatch(names, device):
            tera: float | None = getattr(peak, precision)
            return None if tera is None else tera * 1e12
    return None


def utilization(images_per_second: float, flops_per_image: int, peak: float | None) -> float | None:
    """Model FLOP utilization of one GPU: the fraction of its peak that the model uses; None if the peak is unknown."""
    return None if peak is None else images_per_second * flops_per_image / peak
