"""Peak throughput of GPUs, for model FLOP utilization."""

from collections.abc import Mapping
from typing import NamedTuple

from resnext_trainer.config.models import PrecisionMode


class _Peak(NamedTuple):
    """TFLOPS without sparsity, of which training makes no use; None if the tensor cores do not support the precision.

    fp16 and bf16 are accumulated in fp32.
    """

    fp16: float
    bf16: float | None
    tf32: float | None
    fp32: float
    """Without tensor cores."""


_HOPPER_SXM = _Peak(989.4, 989.4, 494.7, 66.9)
_HOPPER_NVL = _Peak(835.5, 835.5, 417.5, 60)
_A100 = _Peak(312, 312, 156, 19.5)
_V100_SXM2 = _Peak(125, None, None, 15.7)

_PEAKS: Mapping[str, _Peak] = {
    "NVIDIA H200": _HOPPER_SXM,
    "NVIDIA H200 NVL": _HOPPER_NVL,
    "NVIDIA H100 80GB HBM3": _HOPPER_SXM,
    "NVIDIA H100 NVL": _HOPPER_NVL,
    "NVIDIA H100 PCIe": _Peak(756, 756, 378, 51.2),
    "NVIDIA A100-SXM4-40GB": _A100,
    "NVIDIA A100-SXM4-80GB": _A100,
    "NVIDIA A100-PCIE-40GB": _A100,
    "NVIDIA A100 80GB PCIe": _A100,
    "NVIDIA A10": _Peak(125, 125, 62.5, 31.2),
    "NVIDIA L40S": _Peak(362.05, 362.05, 183, 91.6),
    "NVIDIA L4": _Peak(121, 121, 60, 30.3),
    "Tesla T4": _Peak(65, None, None, 8.1),
    "Tesla V100-SXM2-16GB": _V100_SXM2,
    "Tesla V100-SXM2-32GB": _V100_SXM2,
}
"""By the name that the driver reports to nvidia-smi and to TensorFlow. The H100 of SXM modules is the one with HBM3.

Sources, all by NVIDIA:

- H100 SXM and PCIe: whitepaper "NVIDIA H100 Tensor Core GPU Architecture", version 1.04, table 1.
- H200: product page, which states the values of the H100 SXM, rounded and with sparsity.
- H100 NVL and H200 NVL: data sheet of the H100 and product page of the H200. Both state 1,671 and 835 with sparsity.
- A100, A10, L40S, V100: data sheets, without sparsity. That of the L40S states 362.05, although half of its value with
  sparsity, 733, is more.
- L4: data sheet, which states 242 and 120 with sparsity.
- T4: data sheet, mixed precision.
"""


def peak_flops(device: str, precision: PrecisionMode) -> float | None:
    """Operations per second of a GPU at a precision, without sparsity; None if it is unknown.

    device: name that the driver reports. A part of a GPU (MIG) has another name, and therefore no peak.
    """
    if (peak := _PEAKS.get(device)) is None:
        return None
    tera: float | None = getattr(peak, precision)
    return None if tera is None else tera * 1e12


def utilization(images_per_second: float, flops_per_image: int, peak: float | None) -> float | None:
    """Model FLOP utilization of one GPU: the fraction of its peak that the model uses; None if the peak is unknown."""
    return None if peak is None else images_per_second * flops_per_image / peak
