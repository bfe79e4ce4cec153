"""An event as an object again, for the transports of openlineage-python that look into what they send.

The kafka transport chooses its message key by the class of the event and of its parent facet; gcplineage
takes run events only and reads the job type facet; a transformer may read and change anything. So what comes
back is as close to what was emitted as JSON allows: the client's own classes wherever they have room for
every key, and elsewhere a dict whose keys can be read as attributes too.
"""

from __future__ import annotations

import inspect
from enum import Enum
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

import attr
from openlineage.client import event_v2, facet_v2
from openlineage.client.serde import Serde

from keepline.event import parse


class Record(dict[str, Any]):
    """A JSON object whose keys are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


_EVENTS = (
    (event_v2.RunEvent, "run", "job"),
    (event_v2.JobEvent, "job"),
    (event_v2.DatasetEvent, "dataset"),
)

_type_hints = cache(get_type_hints)


def revive(body: bytes) -> object:
    """Build from JSON the event that a transport of openlineage-python can take in its ``emit()``.

    ``Serde.to_json`` of what comes back equals the body of an event that a client made, producer and
    schemaURL included. In a body from elsewhere, ``Serde`` drops what it drops from every event: nulls, and
    empty objects in lists.

    Args:
        body: the JSON document, UTF-8.

    Returns:
        A ``RunEvent``, ``JobEvent`` or ``DatasetEvent`` of ``openlineage.client.event_v2``; a dict when the
        installed client's classes can't hold the document, or would change it.

    Raises:
        EventError: the body isn't a JSON object.

    """
    document = parse(body, object_hook=Record)
    event = _event(document)
    try:
        faithful = Serde.to_dict(event) == Serde.to_dict(document)
    except Exception:
        faithful = False
    return event if faithful else document


def _event(document: dict[str, Any]) -> object:
    for cls, *needed in _EVENTS:
        if all(isinstance(document.get(name), Record) for name in needed):
            return _object(cls, document)
    return document


def _object(cls: type, document: dict[str, Any]) -> object:
    attributes = attr.fields_dict(cls)
    if not document.keys() <= attributes.keys():
        return document
    try:
        hints = _type_hints(cls)
        values = {name: _value(hints[name], document.get(name)) for name in attributes}
        made = cls(**{name.lstrip("_"): values[name] for name, a in attributes.items() if a.init})
        # Again, for what __init__ doesn't take (schemaURL) or replaces (an absent producer).
        for name, value in values.items():
            setattr(made, name, value)
    except Exception:
        return document
    return made


def _value(hint: Any, value: Any) -> Any:
    """Make of a JSON value what an attribute with this type hint holds."""
    choices = [choice for choice in get_args(hint) if choice is not type(None)]
    if type(None) in get_args(hint) and len(choices) == 1:
        hint = choices[0]
    if isinstance(value, list) and get_origin(hint) is list:
        (of,) = get_args(hint)
        return [_value(of, item) for item in value]
    if isinstance(value, Record) and get_origin(hint) is dict:
        _, of = get_args(hint)
        return {key: _value(of, item) for key, item in value.items()}
    if not isinstance(hint, type):
        return value
    if isinstance(value, Record) and issubclass(hint, facet_v2.BaseFacet):
        return _facet(value)
    if isinstance(value, Record) and attr.has(hint):
        return _object(hint, value)
    if value is not None and issubclass(hint, Enum):
        return hint(value)
    return value


def _facet(document: dict[str, Any]) -> object:
    # Its class is told by the end of its schemaURL; what stands before changes with every version of a facet.
    cls = _facet_classes().get(str(document.get("_schemaURL")).rpartition("/")[2])
    return document if cls is None else _object(cls, document)


@cache
def _facet_classes() -> dict[str, type]:
    modules = [module for module in vars(facet_v2).values() if inspect.ismodule(module)]
    members = [member for module in modules for member in vars(module).values()]
    return {
        member.__name__: member
        for member in members
        if isinstance(member, type) and issubclass(member, facet_v2.BaseFacet)
    }
