"""Throughput and memory use of the trainer and the operator, compared with other implementations on one machine."""
