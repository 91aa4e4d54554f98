"""Checkpoints: files committed together (`store`), their metadata (`meta`), loading their model (`loading`)."""
