"""The two clients: how each carries out a step."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import httpx

from sextant_client.calling import Awaiting, Blocking
from sextant_client.calls import Calls
from sextant_client.flow import (
    Action,
    Emit,
    Emits,
    Flow,
    Open,
    Pause,
    Read,
    Request,
    T,
    Together,
    emit_result,
)

CONNECT_S = 10.0


def _options(url: str | None, key: str | None) -> dict[str, Any]:
    if url is None:  # a key of the environment goes to no other address than the environment's
        url, key = os.environ.get("SEXTANT_URL"), key or os.environ.get("SEXTANT_KEY")
    if not url:
        raise ValueError(
            "no address: give url, or set SEXTANT_URL; `sextant up` prints that of a local service"
        )
    headers = {"User-Agent": "sextant-client"}
    if key:  # read from a file it may end in a newline
        headers["Authorization"] = f"Bearer {key.strip()}"
    return {"base_url": url, "headers": headers, "timeout": CONNECT_S}


def _timeout(request: Request) -> httpx.Timeout:
    return httpx.Timeout(CONNECT_S, read=request.read_s, write=60.0)


def _build(http: httpx.Client | httpx.AsyncClient, request: Request, content: Any) -> httpx.Request:
    params = {name: value for name, value in (request.params or {}).items() if value is not None}
    return http.build_request(
        request.method,
        request.path,
        params=params,
        json=request.json,
        headers=dict(request.headers),
        content=content,
        timeout=_timeout(request),
    )


class Client(Calls, Blocking):
    """The service, call by call. Use it as a context manager, or call ``close``.

    Args:
        url: address of the service, for example ``http://127.0.0.1:8722``. When None,
            address and key are ``SEXTANT_URL`` and ``SEXTANT_KEY`` of the environment.
        key: an API key; None where the service asks for none.

    Raises:
        ValueError: if there is no address.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = httpx.Client(**_options(url, key), transport=transport)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, flow: Flow[T]) -> T:
        *_, result = self._iterate(emit_result(flow))
        return result

    def _iterate(self, flow: Emits[T]) -> Iterator[T]:
        executor, answer = _Executor(self._http, self._run), None
        try:
            while True:
                step = flow.send(answer)
                answer = (yield step.value) if isinstance(step, Emit) else executor.do(step)
        except StopIteration:
            return
        finally:
            flow.close()
            executor.release()


class _Executor:
    """Carries out the steps of one flow; holds its open answer."""

    def __init__(self, http: httpx.Client, run: Callable[[Flow[Any]], Any]) -> None:
        self._http = http
        self._run = run
        self._held: httpx.Response | None = None
        self._bytes: Iterator[bytes] = iter(())

    def do(self, step: Action) -> Any:
        if isinstance(step, Pause):
            return time.sleep(step.seconds)
        if isinstance(step, Together):
            with ThreadPoolExecutor(len(step.flows)) as pool:
                return list(pool.map(self._run, step.flows))
        try:
            return next(self._bytes, None) if isinstance(step, Read) else self._send(step)
        except httpx.TransportError as error:
            return error

    def _send(self, step: Request | Open) -> httpx.Response:
        self.release()
        request, keep = (step.request, True) if isinstance(step, Open) else (step, False)
        content = request.body() if request.body else None
        built = _build(self._http, request, content)
        answer = self._http.send(built, stream=keep, follow_redirects=request.method == "GET")
        if keep and answer.is_success:
            self._held, self._bytes = answer, answer.iter_bytes()
        else:
            answer.read()
        return answer

    def release(self) -> None:
        if self._held is not None:
            self._held.close()
        self._held, self._bytes = None, iter(())


class AsyncClient(Calls, Awaiting):
    """The same for asyncio: calls give awaitables, streams are asynchronous iterators."""

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(**_options(url, key), transport=transport)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _run(self, flow: Flow[T]) -> T:
        *_, result = [each async for each in self._iterate(emit_result(flow))]
        return result

    async def _iterate(self, flow: Emits[T]) -> AsyncIterator[T]:
        executor, answer = _AsyncExecutor(self._http, self._run), None
        try:
            while True:
                step = flow.send(answer)
                answer = (yield step.value) if isinstance(step, Emit) else await executor.do(step)
        except StopIteration:
            return
        finally:
            flow.close()
            await executor.release()


class _AsyncExecutor:
    """:class:`_Executor` for asyncio."""

    def __init__(
        self, http: httpx.AsyncClient, run: Callable[[Flow[Any]], Coroutine[Any, Any, Any]]
    ) -> None:
        self._http = http
        self._run = run
        self._held: httpx.Response | None = None
        self._bytes: AsyncIterator[bytes] = _asynchronous(())

    async def do(self, step: Action) -> Any:
        if isinstance(step, Pause):
            return await asyncio.sleep(step.seconds)
        if isinstance(step, Together):
            return await asyncio.gather(*map(self._run, step.flows))
        try:
            if isinstance(step, Read):
                return await anext(self._bytes, None)
            return await self._send(step)
        except httpx.TransportError as error:
            return error

    async def _send(self, step: Request | Open) -> httpx.Response:
        await self.release()
        request, keep = (step.request, True) if isinstance(step, Open) else (step, False)
        content = _asynchronous(request.body()) if request.body else None
        built = _build(self._http, request, content)
        answer = await self._http.send(built, stream=keep, follow_redirects=request.method == "GET")
        if keep and answer.is_success:
            self._held, self._bytes = answer, answer.aiter_bytes()
        else:
            await answer.aread()
        return answer

    async def release(self) -> None:
        if self._held is not None:
            await self._held.aclose()
        self._held, self._bytes = None, _asynchronous(())


async def _asynchronous(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
