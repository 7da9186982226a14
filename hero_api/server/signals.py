"""The signals that end the service."""

import os
import signal


def stop_signals() -> set[signal.Signals]:
    """Return the signals that end the service; under `nohup`, a closed terminal does not."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return {signal.SIGTERM, signal.SIGINT} | (set() if ignored else {signal.SIGHUP})


def end_at_once() -> None:
    """Let a stop signal end this process at once, with status 0.

    It is for the time before the service serves, when nobody waits for an answer. Process 1 of a
    container would not get a signal that it has no handler for.
    """
    for number in stop_signals():
        signal.signal(number, lambda *_: os._exit(0))


def stop_as_by_ctrl_c() -> None:
    """Let the other stop signals be what Ctrl-C is: a half-written file is deleted."""
    for number in stop_signals() - {signal.SIGINT}:
        signal.signal(number, signal.default_int_handler)
