"""Input pipelines: tf.data, NVIDIA DALI, native (C), and synthetic noise."""
