"""The API as a process, on the address of the settings: ``python -m app.serve``.

``python -m uvicorn`` would put the working directory first on the import path.
"""

import gc

import uvicorn
from fastapi import FastAPI

from app.http.protocol import BoundedProtocol
from app.main import create_app
from app.private import keep_private
from app.settings import get_settings

GRACEFUL_SHUTDOWN_S = 5


def make() -> FastAPI:
    """The application, with what lasts as long as it kept from the garbage collector's view.

    Half a million objects of routes and schemas, walked again and again, were a third of the time
    of a page of jobs.
    """
    app = create_app()
    gc.collect()
    gc.freeze()
    return app


def main() -> None:
    """Serve until SIGTERM."""
    keep_private()
    settings = get_settings()
    uvicorn.run(
        "app.serve:make",
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
