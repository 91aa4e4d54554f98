"""A persona, and the conversations that teach a model to be it."""
