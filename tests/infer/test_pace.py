"""A step fits a caller's time limit by what the latest ones took."""

from nanochat.infer.pace import Pace


def test_unknown_is_one_token_and_no_more_prompt_than_usual():
    assert (Pace().tokens_within(1.0, 16), Pace().prompt_tokens_within(1.0)) == (1, 0)


def test_as_many_tokens_as_fit_and_at_least_one():
    pace = Pace()
    pace.decoded(8, 0.032)
    assert [pace.tokens_within(seconds, 16) for seconds in (0.001, 0.0041, 0.0121, 1e9)] == [1, 1, 3, 16]
    pace.read(200, 0.2)
    assert 9.9 < pace.prompt_tokens_within(0.01) < 10.1
    pace.decoded(1, 0.1)  # more requests run now
    assert pace.tokens_within(0.01, 16) == 1
