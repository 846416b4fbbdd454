"""What tests share: builders, fakes, and a simulated cluster."""
