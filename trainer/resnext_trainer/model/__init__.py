"""The network with its layers, optimizer, weight average and train state."""
