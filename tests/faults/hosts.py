"""Hosts of a cluster as network namespaces, each on a wire of its own. Linux, as root."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.service import Wire

IP, NSENTER, UNSHARE = map(shutil.which, ("ip", "nsenter", "unshare"))


def _ip(*words: str) -> None:
    subprocess.run([str(IP), *words], check=True, capture_output=True, text=True)


class Host:
    """A network namespace and its wire to the one of the test.

    Attributes:
        server: address of the test's end, where servers listen for this host.
        servers: that listen for it alone.
        prefix: words before a command that run it on this host.
    """

    def __init__(self, number: int) -> None:
        self.name = f"sx{os.getpid()}n{number}"  # names of interfaces have 15 characters at most
        self.server = f"10.231.{number}.1"
        self.servers: list[Wire] = []
        named = [str(UNSHARE), "--uts", "sh", "-c", f'hostname {self.name} && exec "$@"', "sh"]
        self.prefix = [str(NSENTER), f"--net=/run/netns/{self.name}", *named]
        self._wire = f"{self.name}w"
        _ip("netns", "add", self.name)
        _ip("link", "add", self._wire, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        _ip("address", "add", f"{self.server}/30", "dev", self._wire)
        _ip("-n", self.name, "address", "add", f"10.231.{number}.2/30", "dev", "eth0")
        for device in ("eth0", "lo"):
            _ip("-n", self.name, "link", "set", device, "up")
        self.join()

    def cut(self) -> None:
        """Let nothing through: whatever is sent is lost without a word."""
        _ip("link", "set", self._wire, "down")

    def join(self) -> None:
        """Let everything through again."""
        _ip("link", "set", self._wire, "up")

    def remove(self) -> None:
        """End what listens for it and the namespace; its wire goes with it."""
        for server in self.servers:
            server.cut()
        _ip("netns", "delete", self.name)


def permitted() -> bool:
    """Whether this machine lets us make hosts."""
    if not (IP and NSENTER and UNSHARE):
        return False
    try:
        Host(250).remove()
    except subprocess.CalledProcessError:
        return False
    return True


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """Several hosts, removed at the end."""
    made = [Host(number) for number in range(1, count + 1)]
    try:
        yield made
    finally:
        for host in made:
            host.remove()
