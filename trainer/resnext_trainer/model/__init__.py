"""The model, its layers, optimizer, exponential moving average and train state."""
