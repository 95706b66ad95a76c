"""A limit on code that never ends."""

import signal
import threading

import pytest

from scoreonce.stages.data.time_limit import time_limit


def forever() -> None:
    while True:
        pass


def test_an_endless_loop_is_stopped():
    with pytest.raises(TimeoutError, match=r"not finished after 0\.05 s"), time_limit(0.05):
        forever()


def test_the_signal_and_the_timer_are_left_as_they_were():
    before = signal.getsignal(signal.SIGVTALRM)
    with time_limit(60):
        assert signal.getsignal(signal.SIGVTALRM) is not before
    assert signal.getsignal(signal.SIGVTALRM) is before
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)


def test_another_thread_works_without_a_limit():
    done = []

    def work() -> None:
        with time_limit(0.001):
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]
