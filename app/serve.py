"""The API as a process, on the address of the settings: ``python -m app.serve``.

``python -m uvicorn`` would put the working directory first on the import path.
"""

import uvicorn

from app.http.protocol import BoundedProtocol
from app.private import keep_private
from app.settings import get_settings

GRACEFUL_SHUTDOWN_S = 5


def main() -> None:
    """Serve until SIGTERM."""
    keep_private()
    settings = get_settings()
    uvicorn.run(
        "app.main:create_app",
        factory=True,
        host=settings.host,
        port=settings.port,
        http=BoundedProtocol,
        ws="none",
        access_log=False,
        timeout_graceful_shutdown=GRACEFUL_SHUTDOWN_S,
    )


if __name__ == "__main__":
    main()
