"""The three kinds of exercise at the end of a lesson: compute a number, predict an outcome, implement a function.

Each prints one line, `exercise N: ...`, and never raises: an exercise that nobody has solved says that it is open, and
the notebook goes on.
"""

import base64
import struct
from collections.abc import Callable
from typing import Any

_WITHIN = 0.005  # relative distance at which a computed number counts as right


def encode(value: float) -> str:
    """A number as 12 letters, so that the answer does not stand beside the question for all to read."""
    return base64.b64encode(struct.pack("<d", value)).decode()


def decode(code: str) -> float:
    """The number that `encode` wrote."""
    return struct.unpack("<d", base64.b64decode(code))[0]


def compute(number: int, mine: float | None, answer: str) -> None:
    """Compare a number with the encoded answer: within half a percent it is right. None: not tried yet."""
    right = mine is not None and abs(mine - decode(answer)) <= _WITHIN * abs(decode(answer))
    _say(number, "open" if mine is None else "right" if right else "not yet")


def predict(number: int, mine: Any, outcome: Any) -> None:
    """Show what happened to a reader who said before what would happen. None: no prediction, nothing is shown."""
    if mine is None:
        _say(number, "open (write down what you expect, then run the cell)")
    else:
        _say(number, f"right, {outcome}" if mine == outcome else f"it is {outcome}, you said {mine}: why?")


def implement(number: int, holds: Callable[[], bool]) -> None:
    """Try a function of the reader's: `holds` calls it and compares. One that raises NotImplementedError is open."""
    try:
        _say(number, "right" if holds() else "not yet: it runs, and the results differ")
    except NotImplementedError:
        _say(number, "open")
    except Exception as error:  # whatever a half-written function raises
        _say(number, f"not yet: {type(error).__name__}: {error}")


def _say(number: int, state: str) -> None:
    print(f"exercise {number}: {state}")
