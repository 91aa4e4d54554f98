"""nanochat: the complete, readable system for making your own chat model."""

__version__ = "0.1.0"
