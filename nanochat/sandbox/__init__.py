"""The model's tools, isolated: arithmetic by syntax tree, and Python in a separate process."""
