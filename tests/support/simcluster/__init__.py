"""A simulated cluster: the real API server and operator, with nodes and pods simulated by kwok."""
