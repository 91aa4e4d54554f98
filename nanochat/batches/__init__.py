"""Tokens → rows → batches: the token cache, packing and the loader."""
