"""The operator on the real API server, with nodes and pods that kwok plays: for faults, laws and benchmarks."""
