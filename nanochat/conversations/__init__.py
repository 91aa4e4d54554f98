"""Sources of conversations, and mixtures of them."""
