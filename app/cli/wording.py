"""What the service says about HTTP, in terms of commands."""

import re

from sextant_client import ApiError

COMMANDS = {
    r"GET /v1/kinds/(\S+)/schema": "`sextant kinds KIND` lists the fields",
    r"GET /v1/kinds": "`sextant kinds` lists all",
    r"GET /v1/datasets lists": "`sextant datasets list` shows",
    r"GET /v1/jobs lists": "`sextant jobs` lists",
    r"GET /v1/models lists": "`sextant models list` shows",
    r"POST /v1/keys": "`sextant keys create`",
    r"GET /v1/usage": "`sextant usage`",
    r"send the header Authorization: Bearer <key>": "set SEXTANT_KEY to a key of the service",
}
HINTS = {
    "unreachable": "start it with `sextant up`, or set SEXTANT_URL",
    "unauthorized": "set SEXTANT_KEY to a valid key; `sextant up` prints one and keeps it in "
    "admin.key of its state directory (SEXTANT_STATE_DIR)",
    "forbidden": "set SEXTANT_KEY to a key with this scope; `sextant keys create` makes one",
}


def worded(error: ApiError) -> str:
    """The error for someone at a command line."""
    text = str(error)
    for of_http, of_commands in COMMANDS.items():
        text = re.sub(of_http, of_commands, text)
    return text
