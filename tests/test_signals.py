"""A handler lasts as long as its block."""

import signal
from contextlib import suppress

from nanochat.signals import handle_signals


def test_signals_reach_the_handler_and_afterwards_those_who_had_them() -> None:
    received: list[int] = []
    both = (signal.SIGUSR1, signal.SIGUSR2)
    before = [signal.getsignal(number) for number in both]
    with suppress(KeyError), handle_signals(lambda number, _: received.append(number), *both):
        for number in both:
            signal.raise_signal(number)
        with handle_signals(lambda number, _: received.append(-number), signal.SIGUSR2):
            for number in both:
                signal.raise_signal(number)
        raise KeyError
    assert received == [*both, signal.SIGUSR1, -signal.SIGUSR2]
    assert [signal.getsignal(number) for number in both] == before
