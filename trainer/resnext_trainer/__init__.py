"""The trainer: ResNeXt in TensorFlow, data-parallel with Horovod, on NVIDIA GPUs or CPUs."""
