"""Which service the commands talk to."""

import os

from app.local.address import admin_key, local_url
from app.settings import get_settings
from sextant_client import Client


def connect() -> Client:
    """A client for SEXTANT_URL and SEXTANT_KEY, else for the service of the state directory."""
    settings = get_settings()
    url = os.environ.get("SEXTANT_URL") or local_url(settings)
    return Client(url, os.environ.get("SEXTANT_KEY") or admin_key(settings))
