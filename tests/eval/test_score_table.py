from nanochat.eval.intervals import Interval
from nanochat.eval.score_table import bar


def test_a_bar_shows_the_interval_and_what_it_is_compared_with():
    assert bar(0.5, Interval(0.25, 0.75), 0.0) == "┊·····━━━━━━●━━━━━━·····"
    assert bar(0.5, Interval(0.25, 0.75), 0.3, 0.9) == "······━┊━━━━●━━━━━━··◇··"
    assert bar(-0.1, Interval(-0.3, 0.1), 0.0, 0.2565) == "●━━···◇·················"
    assert bar(1.0, Interval(0.9, 1.0), 0.25).endswith("━━●")
