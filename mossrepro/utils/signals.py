"""How the command line is stopped: SIGTERM counts as Ctrl-C, and a process ends with the one that started it."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

CHILD = "MOSSREPRO_CHILD"  # in the environment of a stage's process: the id of the process that waits for it
_LOOK = 1.0  # seconds between two looks at the parent


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM raise KeyboardInterrupt inside; the handlers from before come back at the end.

    Once one of them has come, SIGTERM does nothing: the process is on its way out, and Ctrl-C in a terminal reaches a
    stage twice, directly and through `mossrepro reproduce`. A fit handles both itself while it trains
    (`training.callbacks.AtomicCheckpoint`). A signal that was ignored from outside (`nohup`) stays ignored.

    A process that one of ours started, a stage of `reproduce` or another rank, gets SIGTERM when that one is gone, even
    if it was killed: an orphan would go on beside the process that continues its work.
    """
    stopping, ended = False, threading.Event()

    def stop(number: int, frame: Any) -> None:
        nonlocal stopping
        if stopping and number == signal.SIGTERM:
            return
        stopping = True
        raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():
        numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
        before = {number: signal.signal(number, stop) for number in numbers}
        if parent := _started_by():
            threading.Thread(target=_follow, args=(parent, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        for number, handler in before.items():
            signal.signal(number, handler)


def _started_by() -> int:
    """The id of the process of ours that started this one; 0 where a user did."""
    if "LOCAL_RANK" in os.environ:  # a rank, started by Lightning or torchrun
        return os.getppid()
    return int(os.environ.get(CHILD, 0))


def _follow(parent: int, ended: threading.Event) -> None:
    """SIGTERM for this process as soon as `parent` is no longer its parent."""
    while os.getppid() == parent:
        if ended.wait(_LOOK):
            return
    os.kill(os.getpid(), signal.SIGTERM)
