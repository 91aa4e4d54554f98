"""Byte-level BPE: training, encoding, and the chat format that the special tokens spell."""
