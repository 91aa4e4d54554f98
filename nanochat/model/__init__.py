"""The transformer: layers, attention kernels, loss, cost, and the backend that computes it."""
