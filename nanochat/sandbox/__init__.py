"""The model's tools, isolated: arithmetic by syntax tree, Python programs in namespaces."""
