"""A child that keeps a net loaded and answers one request after the other. Torch-free.

Frames over standard input and output: a line of JSON, in a request followed by as many bytes as
its ``sizes`` add up to. The child says ``{"ready": true}`` once the net is loaded, then answers
each request by a line, and ends with its input.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

from models.core.errors import RunError

Answerer = Callable[[Sequence[bytes], Mapping[str, Any]], Mapping[str, Any]]


class Wires(NamedTuple):
    """Where requests come from and answers go to."""

    requests: BinaryIO
    answers: BinaryIO


def take_wires() -> Wires:
    """Standard input and output; what else is printed from now on goes to the error output."""
    wires = Wires(os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb"))
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return wires


def serve(wires: Wires, load: Callable[[], Answerer]) -> None:
    """Load a net and answer until the requests end.

    An answer is what the net says, or ``{"refused": {"message", "hint"}}`` where the request is
    wrong. Whatever else goes wrong ends the process.

    Raises:
        RunError: if the net cannot be loaded.
    """
    answer = load()
    _send(wires, {"ready": True})
    while line := wires.requests.readline():
        request = json.loads(line)
        contents = [wires.requests.read(size) for size in request["sizes"]]
        if list(map(len, contents)) != request["sizes"]:
            return  # cut off: the worker is gone
        try:
            reply = answer(contents, request["options"])
        except RunError as error:
            reply = {"refused": {"message": str(error), "hint": error.hint}}
        _send(wires, reply)


def _send(wires: Wires, reply: Mapping[str, Any]) -> None:
    wires.answers.write(json.dumps(reply, allow_nan=False).encode() + b"\n")
    wires.answers.flush()
