"""Calls as methods of both clients: each is written once, as a function that gives its steps.

A descriptor carries the steps out by the object that it is read from, so ``client.get(job_id)`` is
a value of a :class:`Blocking` client and an awaitable of an :class:`Awaiting` one, with the types
of both.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import wraps
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from sextant_client.flow import Emits, Flow

P = ParamSpec("P")
T = TypeVar("T")


class Blocking(ABC):
    """Carries steps out before it returns."""

    @abstractmethod
    def _run(self, flow: Flow[T]) -> T:
        """Carry out a flow and give its result."""

    @abstractmethod
    def _iterate(self, flow: Emits[T]) -> Iterator[T]:
        """Carry out a flow and give what it emits, one by one."""


class Awaiting(ABC):
    """Carries steps out while it is awaited."""

    @abstractmethod
    def _run(self, flow: Flow[T]) -> Coroutine[Any, Any, T]:
        """Carry out a flow and give its result."""

    @abstractmethod
    def _iterate(self, flow: Emits[T]) -> AsyncIterator[T]:
        """Carry out a flow and give what it emits, one by one."""


B = TypeVar("B", bound=Blocking)
A = TypeVar("A", bound=Awaiting)


class Method(ABC, Generic[P, T]):
    """A method whose function gives steps; read from the class, that function.

    Args:
        steps: the function; its first argument is the object that it is called of.
    """

    def __init__(self, steps: Callable[Concatenate[Any, P], T]) -> None:
        self._steps = steps
        self.__wrapped__ = steps  # where help() finds the signature
        self.__doc__ = steps.__doc__

    def __call__(self, owner: Any, /, *args: P.args, **options: P.kwargs) -> Any:
        """The call by way of the class, as ``Client.get(client, job_id)``."""
        return self.__get__(owner, type(owner))(*args, **options)

    def __get__(self, owner: Any, kind: type) -> Any:
        """The method of an object, with the function's name, signature and docstring."""
        if owner is None:
            return self
        steps = MethodType(self._steps, owner)

        @wraps(steps)
        def call(*args: P.args, **options: P.kwargs) -> Any:
            return self._carry_out(owner, steps(*args, **options))

        return call

    @abstractmethod
    def _carry_out(self, owner: Any, flow: Any) -> Any:
        """What the call gives."""


class Call(Method[P, Flow[T]], Generic[P, T]):
    """A call with one answer."""

    @overload
    def __get__(self, owner: None, kind: type) -> Self: ...
    @overload
    def __get__(self, owner: Blocking, kind: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, owner: Awaiting, kind: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, owner: Any, kind: type) -> Any:
        """The method of an object."""
        return super().__get__(owner, kind)

    def _carry_out(self, owner: Any, flow: Flow[T]) -> Any:
        return owner._run(flow)


class Stream(Method[P, Emits[T]], Generic[P, T]):
    """A call with many answers, each fetched when it is asked for."""

    @overload
    def __get__(self, owner: None, kind: type) -> Self: ...
    @overload
    def __get__(self, owner: Blocking, kind: type) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(self, owner: Awaiting, kind: type) -> Callable[P, AsyncIterator[T]]: ...
    def __get__(self, owner: Any, kind: type) -> Any:
        """The method of an object."""
        return super().__get__(owner, kind)

    def _carry_out(self, owner: Any, flow: Emits[T]) -> Any:
        return owner._iterate(flow)


class SelfCall(Method[P, Flow[None]], Generic[P]):
    """A call after which the object itself is what there is to know."""

    @overload
    def __get__(self, owner: None, kind: type) -> Self: ...
    @overload
    def __get__(self, owner: B, kind: type) -> Callable[P, B]: ...
    @overload
    def __get__(self, owner: A, kind: type) -> Callable[P, Coroutine[Any, Any, A]]: ...
    def __get__(self, owner: Any, kind: type) -> Any:
        """The method of an object."""
        return super().__get__(owner, kind)

    def _carry_out(self, owner: Any, flow: Flow[None]) -> Any:
        return owner._run(_then(flow, owner))


def _then(flow: Flow[None], value: T) -> Flow[T]:
    yield from flow
    return value


class OfClient(Blocking):
    """Something of a blocking client, which carries its steps out."""

    _client: Blocking

    def _run(self, flow: Flow[T]) -> T:
        return self._client._run(flow)

    def _iterate(self, flow: Emits[T]) -> Iterator[T]:
        return self._client._iterate(flow)


class OfAsyncClient(Awaiting):
    """Something of an awaiting client, which carries its steps out."""

    _client: Awaiting

    def _run(self, flow: Flow[T]) -> Coroutine[Any, Any, T]:
        return self._client._run(flow)

    def _iterate(self, flow: Emits[T]) -> AsyncIterator[T]:
        return self._client._iterate(flow)
