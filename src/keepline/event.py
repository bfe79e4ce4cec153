"""An OpenLineage event as bytes, with what the outbox needs to know of it.

Nothing here logs an event or puts its content into an error or a repr: it may hold secrets.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any
from uuid import UUID

from keepline.errors import EventError
from keepline.serialise import serialise

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Event", "parse", "serialise"]


@dataclass(frozen=True, slots=True)
class Event:
    """One run, job or dataset event.

    The texts beside the body are safe to store and print anywhere: they encode to UTF-8 and hold no NUL.
    What stands in an event in place of a text (a list, say) counts as absent.

    Args:
        body: the JSON document, UTF-8.
        run_key: what orders events: the runId of a run event, ``job:<namespace>/<name>`` of a job event,
            ``dataset:<namespace>/<name>`` of a dataset event, ``""`` if none can be told.
        event_type: ``START``, ``RUNNING``, ``COMPLETE``, ``FAIL``, ``ABORT`` or ``OTHER``, as the event says
            it; ``""`` for job and dataset events.
        job_namespace: ``""`` where there is none.
        job_name: ``""`` where there is none.

    """

    body: bytes = field(repr=False)
    run_key: str
    event_type: str
    job_namespace: str
    job_name: str

    @classmethod
    def from_openlineage(cls, event: object) -> Event:
        """Take the event that an OpenLineage client hands to its transport.

        Args:
            event: a run, job or dataset event of ``openlineage.client.event_v2`` or of the deprecated
                ``openlineage.client.run``, or the same as a dict.

        Raises:
            EventError: the client itself can't turn it into JSON. Odd metadata never raises.

        """
        return cls._described(serialise(event), event)

    @classmethod
    def from_json(cls, body: bytes) -> Event:
        """Take the event in a JSON document, which is kept byte for byte.

        What the client writes is taken, so ``NaN``, ``Infinity`` and escaped lone surrogates are.

        Args:
            body: the JSON document, UTF-8.

        Raises:
            EventError: it isn't a JSON object.

        """
        return cls._described(body, parse(body))

    @classmethod
    def _described(cls, body: bytes, source: object) -> Event:
        job = _member(source, "job")
        namespace, name = _text(_member(job, "namespace")), _text(_member(job, "name"))
        run = _member(source, "run")
        if run is not None:
            event_type = _text(_member(source, "eventType"))
            return cls(body, _text(_member(run, "runId")), event_type, namespace, name)
        if job is not None:
            return cls(body, _key("job", namespace, name), "", namespace, name)
        dataset = _member(source, "dataset")
        run_key = _key("dataset", _text(_member(dataset, "namespace")), _text(_member(dataset, "name")))
        return cls(body, run_key, "", "", "")


def parse(body: bytes, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> dict[str, Any]:
    """Read the JSON object in a body, as the standard library does, so that no integer loses digits.

    Args:
        body: the JSON document, UTF-8.
        object_hook: as of ``json.loads``.

    Raises:
        EventError: it isn't a JSON object. It says where, and never what stands there.

    """
    document: object = None
    problem = ""
    try:
        document = json.loads(body.decode(), object_hook=object_hook)
    except json.JSONDecodeError as exc:
        problem = f"no JSON from line {exc.lineno}, column {exc.colno} on"
    except (ValueError, RecursionError) as exc:
        problem = type(exc).__name__
    # Raised out here because the exceptions above carry the document, and a chained one would be logged.
    if isinstance(document, dict):
        return document
    raise EventError(
        f"an event of {len(body)} bytes can't be read ({problem or f'it is a {type(document).__name__}'}); "
        "send one OpenLineage event as a JSON object in UTF-8"
    )


def _key(kind: str, namespace: str, name: str) -> str:
    return f"{kind}:{namespace}/{name}" if namespace or name else ""


def _member(holder: object, name: str) -> object:
    if isinstance(holder, dict):
        return holder.get(name)
    try:
        return getattr(holder, name, None)
    except Exception:
        return None


def _text(value: object) -> str:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, (int, float, UUID)):
        return str(value)
    if not isinstance(value, str):
        return ""
    if type(value) is str and value.isascii() and "\0" not in value:
        return value
    # A lone surrogate has no UTF-8, and PostgreSQL takes no NUL in a text.
    return value.encode("utf-8", "replace").replace(b"\0", b"?").decode()
