"""A Ray cluster without processes: its actors are objects of this process, and calls are done at once.

What is sent is pickled. Tests on a real cluster check that Ray does the same; these take seconds for every actor.
"""

import pickle
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from autodistill.errors import AutodistillError


class RayError(Exception):
    """As `ray.exceptions` has it."""


class RayActorError(RayError):
    """As `ray.exceptions` has it. No actor is lost here."""


class RayTaskError(RayError):
    """As `ray.exceptions` has it: an error in an actor."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Reference:
    """What `ray.get` takes: the pickled result of a call, or its error."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.content, self.error = b"", None
        try:
            self.content = pickle.dumps(call())
        except AutodistillError as error:  # the caller gets it, as from Ray; another error ends the test
            self.error = RayTaskError(error)

    def get(self) -> Any:
        if self.error is not None:
            raise self.error
        return pickle.loads(self.content)


class Method:
    """A method of an actor."""

    def __init__(self, method: Callable[..., Any], *, streams: bool = False) -> None:
        self.method, self.streams = method, streams

    def options(self, *, num_returns: str = "", **_: object) -> "Method":
        return Method(self.method, streams=num_returns == "streaming")

    def remote(self, *args: object) -> Any:
        given = pickle.loads(pickle.dumps(args))
        if self.streams:
            return self._references(self.method(*given))
        return Reference(lambda: self.method(*given))

    def _references(self, results: Iterator[object]) -> Iterator[Reference]:
        for result in results:
            yield Reference(lambda result=result: result)  # type: ignore[misc]


class Handle:
    """An actor."""

    def __init__(self, actor: object) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> Method:
        return Method(getattr(self._actor, name))


class ActorClass:
    """What `ray.remote` makes of a class."""

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def options(self, **_: object) -> "ActorClass":
        return self

    def remote(self, *args: object) -> Handle:
        return Handle(self.kind(*pickle.loads(pickle.dumps(args))))


class RayHere(types.ModuleType):
    """A module `ray` that is connected to a cluster of one node."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.exceptions = types.SimpleNamespace(
            RayError=RayError, RayActorError=RayActorError, RayTaskError=RayTaskError
        )

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 4.0}

    def nodes(self) -> list[dict[str, Any]]:
        return [{"NodeID": "here", "NodeManagerAddress": "127.0.0.1", "Alive": True}]

    def get_runtime_context(self) -> types.SimpleNamespace:
        return types.SimpleNamespace(get_node_id=lambda: "here")

    def remote(self, kind: type) -> ActorClass:
        return ActorClass(kind)

    def put(self, value: object) -> Reference:
        return Reference(lambda: value)

    def get(self, reference: Reference) -> Any:
        return reference.get()

    def wait(self, references: Sequence[Any], **_: object) -> tuple[Sequence[Any], Sequence[Any]]:
        return references, []

    def kill(self, handle: Handle, **_: object) -> None:
        return None
