"""Recipes: whole pipelines as lists of commands, each skipped when its result is already there."""
