"""Benchmarks: questions, and checks of answers."""
