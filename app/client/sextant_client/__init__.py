"""The service from Python: ``Client`` and its asynchronous twin, over HTTP only.

A call is a generator of steps (``flow.py`` and the modules on it): it never touches the
network, so both clients share every line of it and differ only in how they carry out a step
(``transports.py``). ``calling.py`` makes them methods, with types for both.
"""

from sextant_client.errors import ApiError
from sextant_client.job import AsyncJob, Job
from sextant_client.series import Metrics
from sextant_client.transports import AsyncClient, Client

__all__ = ["ApiError", "AsyncClient", "AsyncJob", "Client", "Job", "Metrics"]
