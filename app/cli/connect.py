"""Which service the commands talk to."""

import os

from app.local.address import admin_key, local_url
from app.settings import get_settings
from sextant_client import Client


def connect() -> Client:
    """A client for SEXTANT_URL and SEXTANT_KEY, else for the service of the state directory."""
    return Client(service_url(), service_key())


def service_url() -> str:
    """SEXTANT_URL, else the address of the service of the state directory."""
    return os.environ.get("SEXTANT_URL") or local_url(get_settings())


def service_key() -> str | None:
    """SEXTANT_KEY, else the key of the state directory, where it may be read."""
    return os.environ.get("SEXTANT_KEY") or admin_key(get_settings())
