"""Inference: requests in, tokens out."""
