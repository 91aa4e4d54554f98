"""How long an engine's latest tokens took, so that a step can be made to fit a caller's time limit."""


class Pace:
    """Both times are 0 until something has been measured."""

    def __init__(self) -> None:
        self._token_s = 0.0
        self._prompt_token_s = 0.0

    def decoded(self, tokens: int, seconds: float) -> None:
        """Every running request decoded up to so many tokens."""
        self._token_s = seconds / tokens

    def read(self, prompt_tokens: int, seconds: float) -> None:
        """So many tokens of prompts ran alone."""
        self._prompt_token_s = seconds / prompt_tokens

    def tokens_within(self, budget_s: float, most: int) -> int:
        """How many tokens every running request can decode in these seconds, at least 1 and at most `most`."""
        return max(1, int(min(most, budget_s / self._token_s))) if self._token_s else 1

    def prompt_tokens_within(self, budget_s: float) -> float:
        """How many tokens of prompts can run alone in these seconds."""
        return budget_s / self._prompt_token_s if self._prompt_token_s else 0
