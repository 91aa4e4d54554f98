"""Text: datasets, readers, shards, download and packing."""
