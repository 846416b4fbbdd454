"""The trainer: ResNeXt in TensorFlow, data-parallel with Horovod, on NVIDIA GPUs or CPUs."""

import os

# TensorFlow's own default leaves oneDNN out on CPUs without AVX512-VNNI, where a step then takes half as long again. It
# is read when TensorFlow is imported.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
