"""Threads of every worker that answer questions by nets kept loaded.

A net is a process of one tenant. The least recently asked one goes for a new one, where they need
more memory than they may, and after a while without a question.
"""

import contextlib
import threading
import time
from collections.abc import Generator
from functools import partial
from typing import Any, NamedTuple

import structlog

from app import questions, queue
from app.questions import Question
from app.settings import get_settings
from models.core.spec import ArtifactRef
from workers import run_folder
from workers.host import this_host
from workers.warm_child import StillLoadingError, WarmChild

TAKE_S = 1
SAY_S = 1.0
TIDY_S = 5.0
AWAY_S = 1.0

log = structlog.get_logger(__name__)


class Key(NamedTuple):
    """What a process answers for: a file of a tenant, by a kind."""

    tenant_id: str
    kind: str
    sha256: str


class WarmNets:
    """The processes, the least recently asked one first; thread-safe."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._children: dict[Key, WarmChild] = {}
        self._lock = threading.Lock()
        self._tidy_at = 0.0

    @contextlib.contextmanager
    def held(self, question: Question) -> Generator[WarmChild]:
        """The process that answers a question, started if there is none; ended if it fails."""
        key = Key(question.tenant_id, question.kind, question.model["sha256"])
        child = self._locked(key, question)
        try:
            yield child
        except StillLoadingError:  # a later question finds it
            raise
        except BaseException:
            self._drop(key, child)
            raise
        finally:
            child.lock.release()

    def _locked(self, key: Key, question: Question) -> WarmChild:
        """The process of a key, now the latest asked one; waits while another thread asks it."""
        while True:
            with self._lock:
                child = self._children.pop(key, None)
                if child is None:
                    self._make_room(self._most - 1)
                    child = _new(question)
                self._children[key] = child
            child.lock.acquire()
            if not child.closed:
                return child
            child.lock.release()

    def _make_room(self, most: int) -> None:
        """End the least recently asked idle processes until ``most`` are left."""
        for key in list(self._children)[: max(0, len(self._children) - most)]:
            self._end_idle(key)

    def _end_idle(self, key: Key) -> bool:
        """End a process that nobody asks just now; whether it is ended."""
        child = self._children[key]
        if not child.lock.acquire(blocking=False):
            return False
        del self._children[key]
        child.close()
        child.lock.release()
        return True

    def _drop(self, key: Key, child: WarmChild) -> None:
        with self._lock:
            if self._children.get(key) is child:
                del self._children[key]
        child.close()

    def tidy(self) -> None:
        """Now and then end what was not asked for long, and what is too much for the memory."""
        settings, now = get_settings(), time.monotonic()
        before = now - settings.predict_idle_s
        with self._lock:
            if now < self._tidy_at:
                return
            self._tidy_at = now + TIDY_S
            for key in [key for key, child in self._children.items() if child.asked_at < before]:
                self._end_idle(key)
            used = {key: child.memory_mb() for key, child in self._children.items()}
            for key in list(used):
                if sum(used.values()) <= settings.predict_memory_mb:
                    break
                if self._end_idle(key):
                    del used[key]

    def close(self) -> None:
        """End all of them."""
        with self._lock:
            self._make_room(0)


def _new(question: Question) -> WarmChild:
    model = ArtifactRef(**question.model)
    request = {"kind": question.kind, "model": dict(question.model)}
    prepare = partial(run_folder.prepare_net, question.tenant_id, model, request, this_host().id)
    return WarmChild(prepare)


class Server(threading.Thread):
    """Takes questions until the worker drains."""

    def __init__(self, nets: WarmNets, draining: threading.Event) -> None:
        super().__init__(name="predictions", daemon=True)
        self._nets, self._draining = nets, draining
        self._client = queue.make_answer_client()
        self._say_at = 0.0
        self._away = False

    def run(self) -> None:
        """One question after the other."""
        while not self._draining.is_set():
            try:
                self._take()
                self._away = False
            except Exception as error:  # without this thread nobody answers
                if not self._away:
                    log.warning("serving_interrupted", error=str(error)[:200])
                self._away = True
                self._draining.wait(AWAY_S)
        self._nets.close()

    def _take(self) -> None:
        """Answer the next question if there is one soon."""
        if time.monotonic() >= self._say_at:
            questions.say_serving(self._client)
            self._say_at = time.monotonic() + SAY_S
        taken = questions.take(self._client, TAKE_S)
        if taken is not None:
            reply = self._answer(taken.question, time.monotonic() + taken.left_s)
            questions.answer(self._client, taken.question_id, reply)
        self._nets.tidy()

    def _answer(self, question: Question, deadline: float) -> dict[str, Any]:
        try:
            with self._nets.held(question) as child:
                if time.monotonic() >= deadline:  # behind others; the net is well
                    return {"failed": "the net was busy for too long"}
                return child.ask(question.contents, question.options, deadline)
        except Exception as error:  # who asks must learn of it, whatever it is
            log.warning("prediction_failed", kind=question.kind, error=str(error)[:500])
            return {"failed": str(error)[:500]}


def start_servers() -> list[Server]:
    """As many threads as nets may be loaded, so that one that loads keeps no other from answering.

    None without a broker, or where the settings want none.
    """
    settings = get_settings()
    if not settings.broker_url:
        return []
    nets, draining = WarmNets(settings.predict_nets), this_host().draining
    servers = [Server(nets, draining) for _ in range(settings.predict_nets)]
    for server in servers:
        server.start()
    return servers
