"""A child that answers without a net: with its pid, or as the first bytes of a file say."""

import json
import os
import sys
import time
from pathlib import Path

from models.core import serving
from models.core.errors import DataError


def answer(contents, options):
    """What is asked about decides: bytes that hang, die or are refused, else a class."""
    word = contents[0].removeprefix(b"BM").decode()
    if word == "hang":
        time.sleep(60)
    if word == "die":
        os._exit(1)
    if word == "bad":
        raise DataError("image 0: damaged", hint="send another")
    named = {"class": f"{os.getpid()}", "probability": 1.0}
    return {"predictions": [[named][: options["top"]] for _ in contents]}


if __name__ == "__main__":
    folder = Path(sys.argv[-1])
    model = json.loads((folder / "serve.json").read_text())["model"]
    assert (folder / "inputs" / model["sha256"]).exists()
    time.sleep(float(os.environ.get("LC_STUB_LOAD_S", "0")))
    serving.serve(serving.take_wires(), lambda: answer)
