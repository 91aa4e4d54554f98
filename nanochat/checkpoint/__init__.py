"""Checkpoints: files that commit as one (`store`), what they say of themselves (`meta`), their model (`loading`)."""
