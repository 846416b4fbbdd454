"""Shared by tests: builders, fakes and a simulated cluster."""
