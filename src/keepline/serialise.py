"""An OpenLineage event as JSON: what the client's own ``Serde`` writes, only faster (bench/serialise.py).

A walker of our own makes plain values of an event, and orjson writes them. It knows what nearly every event
is made of and takes no guesses: on anything else, ``Serde`` of the installed client does the work. So where
clients differ (1.54 writes dates and UUIDs out, 1.47 puts placeholders), the installed one decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

import orjson

from keepline.errors import EventError


def serialise(event: object) -> bytes:
    """Write the event as JSON equal to what ``Serde.to_json`` of the installed OpenLineage client gives.

    Equal means that both parse to the same; the order of keys and the escapes of strings may differ. An
    event with anything unusual in it goes through ``Serde`` itself, so its bytes are the ones a receiver
    got before Keepline: ``NaN`` and ``Infinity`` stay the literals that ``json`` writes.

    Args:
        event: a run, job or dataset event of the client, or the same as a dict.

    Raises:
        EventError: ``Serde`` itself can't do it. Its exception is named by type only.

    """
    # A dict goes straight to Serde: it has other rules there than an object (tuples and facet objects
    # inside it aren't walked), and the client's own emit() never hands one on.
    cls = type(event)
    if hasattr(cls, "__attrs_attrs__") and not issubclass(cls, dict):
        try:
            return orjson.dumps(_rule(cls)(event))
        except Exception:  # noqa: S110 - whatever it was, Serde is the judge of it
            pass
    return _by_serde(event)


def _by_serde(event: object) -> bytes:
    # Here because it imports the whole client, which an emitting process has and others need not load.
    from openlineage.client.serde import Serde

    try:
        return Serde.to_json(event).encode()
    except Exception as exc:
        failure = type(exc).__name__
    # Raised out here because the message of the client's exception may quote the event.
    raise EventError(
        f"a {type(event).__qualname__} can't be turned into JSON (the OpenLineage client raised "
        f"{failure}); look in its facets for a dict with keys of mixed types or a value that holds itself"
    )


class _Unusual(Exception):
    """What ``Serde`` makes of a value isn't known here."""


# How to make an instance of a class plain, learnt once for each class. What comes out holds nothing but what
# orjson and json write alike: None, bool, int, finite float and exact str, and lists and dicts of these. Keys
# stay as they are, since orjson refuses all but exact str.
_Rule = Callable[[Any], Any]
_rules: dict[type, _Rule] = {}

# Some clients (1.47) make a class for each call of `with_additional_properties`; those must not pile up.
_MOST_RULES = 512

_PLAIN = frozenset({str, int, bool, type(None)})


def _rule(cls: type) -> _Rule:
    rule = _rules.get(cls)
    if rule is None:
        rule = _learn(cls)
        if len(_rules) >= _MOST_RULES:
            _rules.clear()
        _rules[cls] = rule
    return rule


def _learn(cls: type) -> _Rule:
    # The tests that attr.asdict makes, in its order, then those of Serde. Sets are left to them: whether
    # asdict turns a frozenset into a list depends on its version.
    attributes = getattr(cls, "__attrs_attrs__", None)
    if attributes is not None:
        return _object_rule(tuple(attribute.name for attribute in attributes))
    if issubclass(cls, (list, tuple)):
        return _list
    if issubclass(cls, dict):
        return _dict
    if issubclass(cls, Enum) and not issubclass(cls, (set, frozenset)):
        return _enum
    if cls is float:
        return _float
    raise _Unusual


# The loops below are alike and stay apart: through a shared one, an event took half as long again.


def _object_rule(names: tuple[str, ...]) -> _Rule:
    def rule(instance: object) -> dict[str, Any]:
        kept = {}
        for name in names:
            item = getattr(instance, name)
            cls = type(item)
            if cls not in _PLAIN:
                item = (_rules.get(cls) or _rule(cls))(item)
            if item is not None:
                kept[name] = item
        return kept

    return rule


def _dict(value: dict[str, Any]) -> dict[str, Any]:
    kept = {}
    for key, item in value.items():
        cls = type(item)
        if cls not in _PLAIN:
            item = (_rules.get(cls) or _rule(cls))(item)
        if item is not None:
            kept[key] = item
    return kept


def _list(value: Iterable[Any]) -> list[Any]:
    kept = []
    for item in value:
        cls = type(item)
        if cls not in _PLAIN:
            item = (_rules.get(cls) or _rule(cls))(item)
            if item == {}:  # also what became empty just now; empty lists stay
                continue
        if item is not None:
            kept.append(item)
    return kept


def _enum(member: Enum) -> Any:
    value = member.value
    if type(value) not in _PLAIN:
        raise _Unusual  # Serde doesn't look into what a member holds
    return value


def _float(value: float) -> float:
    if value - value != 0.0:  # NaN and the infinities, which orjson would write as null
        raise _Unusual
    return value
