"""Trained networks in use: loading, prediction, export."""
