"""Inference with trained models: loading, prediction and export."""
