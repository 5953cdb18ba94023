"""Ids of several jobs in a query: without ``job_``, by commas."""

_HEX = "[0-9a-f]{32}"


def pattern(least: int, most: int) -> str:
    """A regular expression for ``least`` to ``most`` ids; ``least`` is 0 or more."""
    some = f"{_HEX}(,{_HEX}){{{max(least, 1) - 1},{most - 1}}}"
    return f"^({some})?$" if least == 0 else f"^{some}$"


def whole(given: str) -> list[str]:
    """The ids with ``job_``, in their order."""
    return [f"job_{each}" for each in given.split(",") if each]
