"""Input pipelines that decode batches: tf.data, NVIDIA DALI, and synthetic noise."""
