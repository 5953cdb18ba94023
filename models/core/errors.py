"""Ways a run can fail that a user can act on. Torch-free.

Anything else that escapes a method is ``internal``, exit code 70.
"""

from typing import ClassVar

INSTALL_SAMPLES = (
    "whoever runs the worker installs the extra `samples` there: in the folder of Sextant's sources"
    " `pip install -c constraints.txt '.[worker,samples]'`"
)


class RunError(Exception):
    """A failure with a code of the service, an exit code and a way out."""

    code: ClassVar[str] = "internal"
    exit_code: ClassVar[int] = 70

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class SpecError(RunError, ValueError):
    """The spec is valid by itself but cannot work with this data or net.

    ``pointer`` is the JSON pointer, within the spec, of the field that has to change.
    """

    code = "spec_invalid"
    exit_code = 64

    def __init__(self, message: str, hint: str | None = None, pointer: str = "") -> None:
        super().__init__(message, hint)
        self.pointer = pointer


class DataError(RunError, ValueError):
    """The data cannot be used: corrupt, hostile, of another shape than promised."""

    code = "data_invalid"
    exit_code = 65


class DataMissingError(DataError):
    """The data is not where the worker is."""

    code = "data_missing"

    @classmethod
    def without_package(cls, what: str, package: str) -> "DataMissingError":
        """The error where a package of the extra ``samples`` is not installed.

        Args:
            what: needs it.
            package: by the name under which it is imported.
        """
        return cls(f"{what} needs the package {package}", hint=INSTALL_SAMPLES)


class DivergedError(RunError):
    """A loss or parameter became NaN or infinite."""

    code = "diverged"
