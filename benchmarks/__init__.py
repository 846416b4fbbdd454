"""Speed and memory of the trainer and the operator, compared with other implementations on the same machine."""
