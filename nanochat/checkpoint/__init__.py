"""Checkpoints: files that commit as one (`store`) and the model made of them (`model`)."""
