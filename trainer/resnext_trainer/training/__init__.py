"""The training loop: steps, evaluation, learning-rate schedule, run log, throughput and profiles."""
