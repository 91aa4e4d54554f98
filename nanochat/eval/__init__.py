"""Evaluation: bits per byte, CORE, tasks, samples, tokenizers."""
