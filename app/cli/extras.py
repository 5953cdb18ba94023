"""What an installation without the extras of the service lacks, in one line."""

from importlib.util import find_spec

from app.local.install import install_command


class MissingExtraError(Exception):
    """A command needs packages that are not installed; the message has the pip command."""


def require(extra: str, *modules: str) -> None:
    """Check that a command has the packages it needs.

    Args:
        extra: the extra of this distribution that brings them.
        modules: packages that every installation with this extra has.

    Raises:
        MissingExtraError: if one of them is not installed.
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise MissingExtraError(
            f"this command needs {', '.join(missing)}: {install_command(extra)}"
        )
