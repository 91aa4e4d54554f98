"""The model's tools, isolated: arithmetic from a syntax tree, Python programs in namespaces."""
