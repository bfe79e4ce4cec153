from __future__ import annotations

import copy
import enum
import gc
import json
import math
import pickle
import subprocess
import sys
import uuid
import warnings
import weakref
from collections import OrderedDict, defaultdict, namedtuple
from dataclasses import FrozenInstanceError, dataclass
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

import attr
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openlineage.client import event_v2, set_producer
from openlineage.client.event_v2 import (
    Dataset,
    DatasetEvent,
    InputDataset,
    Job,
    JobEvent,
    OutputDataset,
    Run,
    RunEvent,
    RunState,
    StaticDataset,
)
from openlineage.client.facet_v2 import (
    JobFacet,
    RunFacet,
    job_type_job,
    ownership_job,
    parent_run,
    schema_dataset,
    sql_job,
)
from openlineage.client.serde import Serde

import keepline.serialise
from keepline.errors import EventError
from keepline.event import Event, parse, serialise
from keepline.revive import revive

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from openlineage.client import facet as facet_v1
    from openlineage.client import run as run_v1
    from openlineage.client.transport.gcplineage import GCPLineageConfig, GCPLineageTransport
    from openlineage.client.transport.kafka import KafkaTransport

RUN_ID = "0190a0b1-0000-7000-8000-000000000001"
WHEN = "2026-01-02T03:04:05.678Z"
SECRET = "hunter2"


@attr.define
class Holder(RunFacet):
    value: Any


@attr.define
class Maybe:
    value: Any = None


@attr.s
class NoSlots:
    value = attr.ib(default=None)
    _private = attr.ib(default="kept under its own name")


@attr.define
class NoFields:
    pass


class UndecoratedHolder(Holder):
    pass


class Colour(enum.Enum):
    RED = "red"
    NUMBER = 7
    NOTHING = None
    HALF = 0.5
    NAN = math.nan
    NESTED = {"a": None, "b": [None, {}]}  # noqa: RUF012


class TextColour(str, enum.Enum):
    RED = "red"


class NumberColour(enum.IntEnum):
    ONE = 1


class ListedColour(tuple, enum.Enum):  # type: ignore[type-arg]
    def __new__(cls, text: str) -> ListedColour:
        member = tuple.__new__(cls, text)
        member._value_ = text
        return member

    RED = "red"


class SetColour(frozenset, enum.Enum):  # type: ignore[type-arg]
    def __new__(cls, text: str) -> SetColour:
        member = frozenset.__new__(cls, text)
        member._value_ = text
        return member

    RED = "red"


class int64:  # noqa: N801 - named like numpy's
    def __int__(self) -> int:
        return 64


class Text(str):
    __slots__ = ()


class Number(int):
    pass


class Real(float):
    pass


class InfoDict(dict):  # type: ignore[type-arg]
    """As the provider's InfoJsonEncodable: a dict with attributes of its own."""

    def __init__(self, **items: Any) -> None:
        super().__init__(**items)
        self.obj = "not an item"


class InfoList(list):  # type: ignore[type-arg]
    pass


Pair = namedtuple("Pair", "first second")


@dataclass
class PlainDataclass:
    a: int = 1


def nested(depth: int, leaf: Any = 1) -> Any:
    for level in range(depth):
        leaf = [leaf] if level % 2 else {"k": leaf}
    return leaf


def run_event(value: Any = None, **changes: Any) -> RunEvent:
    facets = {"holder": Holder(value), "plain": {"value": value, "list": [value], "tuple": (value, [value])}}
    known: dict[str, Any] = {
        "eventTime": WHEN,
        "eventType": RunState.START,
        "run": Run(RUN_ID, facets),
        "job": Job("ns", "dag.task", {"sql": sql_job.SQLJobFacet("select 1")}),
        "inputs": [InputDataset("pg", "a.b", facets={"x": Holder(value)}, inputFacets={"y": Maybe(value)})],
        "outputs": [OutputDataset("pg", "c.d")],
        "producer": "https://producer.example/1",
    }
    return RunEvent(**{**known, **changes})


def normalised(text: str | bytes) -> str:
    """JSON text in which equal documents are equal, NaN is itself, and 1, 1.0 and true differ."""
    return json.dumps(json.loads(text), sort_keys=True)


def outcome(function: Any, event: object) -> str:
    try:
        return normalised(function(event))
    except Exception as exc:
        return "EventError" if isinstance(exc, EventError) else "Serde raised"


def assert_equal_to_serde(event: object) -> None:
    theirs = outcome(Serde.to_json, event)
    assert outcome(serialise, event) == ("EventError" if theirs == "Serde raised" else theirs)


@pytest.fixture
def without_serde(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(event: object) -> bytes:
        raise AssertionError("the event went through Serde")

    monkeypatch.setattr(keepline.serialise, "_by_serde", refuse)


# Equal to Serde

USUAL = {
    "texts": ["", "plain", "ü€😀", "nul \0 and \x1f", '"quotes" \\ </script>', "\u2028\ufeff\ufffe"],
    "numbers": [0, -1, 2**53 + 1, 2**63, 2**64 - 1, -(2**63), 0.1, -0.0, 1e16, 1e22, 5e-324, 1.5e300],
    "booleans": [True, False],
    "nulls in a dict": {"a": None, "b": {"c": None, "d": {"e": None}}, "f": 0, "g": "", "h": False},
    "what becomes empty in a dict": {"a": {}, "b": {"c": None}, "d": [], "e": [None], "f": [{}]},
    "nulls and empties in a list": [None, {}, {"a": None}, {"a": {}}, [], [None], [{}], "", 0, False],
    "objects that become empty in a list": [Maybe(), NoFields(), Maybe({}), Maybe([None]), Maybe(Maybe())],
    "objects in everything": {"a": [Maybe(1), {"b": Maybe((Maybe(None), Maybe(2)))}], "c": NoSlots(1)},
    "tuples": ((), (1, None, {}, (None,)), [({"a": None},)], Pair(1, None)),
    "enums": [Colour.RED, Colour.NUMBER, Colour.NOTHING, TextColour.RED, NumberColour.ONE],
    "an enum that is a tuple": ListedColour.RED,
    "enums in a dict": {"a": Colour.NOTHING, "b": TextColour.RED, "c": NumberColour.ONE},
    "dict subclasses": [OrderedDict(a=None, b=1), defaultdict(list, a=[None]), InfoDict(a=None, b=Maybe())],
    "list subclasses": InfoList([None, InfoList([{}]), 1]),
    "private attributes": [NoSlots(1), NoSlots(None, private=None)],
    "objects of an undecorated subclass": UndecoratedHolder(1),
    "objects with additional properties": JobFacet().with_additional_properties(a=1, b=None, c=[Maybe()]),
    "facets of the deprecated module": [facet_v1.SqlJobFacet("select 1"), facet_v1.SchemaField("a", "int")],
    "what is 100 levels deep": nested(100),
}

UNUSUAL = {
    "not a number": math.nan,
    "infinity": [math.inf, -math.inf],
    "an enum of not a number": [Colour.NAN, Colour.HALF],
    "an enum that holds a dict": [Colour.NESTED],
    "an enum that is a set": SetColour.RED,
    "integers over 64 bits": [2**64, -(2**63) - 1, 10**400],
    "an integer too long to write": 10**5000,
    "numpy's int64": [int64(), {"a": int64()}],
    "subclasses of scalars": [Text("a"), Number(1), Real(0.5), Real("nan")],
    "bytes": b"bytes",
    "sets": [{1}, frozenset({2}), {Text("a")}, set()],
    "a date and time": datetime(2026, 1, 2, tzinfo=timezone(timedelta(seconds=90))),
    "a date": [date(2026, 1, 2), {"a": date(2026, 1, 2)}],
    "a duration": timedelta(seconds=1),
    "a UUID": uuid.UUID(RUN_ID),
    "a dataclass": PlainDataclass(),
    "other objects": [object(), Decimal("1.5"), PurePosixPath("/a"), 1j, len, Holder],
    "an iterator": range(3),
    "a lone surrogate": ["\ud800", {"\udfff": 1}],
    "a pair of surrogates": "\ud83d\ude00",
    "keys of integers": {1: "a", 2: None},
    "keys of numbers": {1: "a", 1.5: "b", False: "c"},
    "keys that meet in JSON": {math.nan: "a", -math.nan: "b"},
    "a key of null": {None: "a"},
    "keys of mixed types": {1: "a", "b": 2},
    "keys of mixed types, one of them null": {1: None, "b": 2},
    "a key of text's subclass": {Text("a"): 1, TextColour.RED: 2},
    "a key that is an enum": {Colour.RED: 1},
    "a key that is a tuple": {(1, 2): 1},
    "a key that is bytes": {b"a": 1},
    "what is deeper than orjson goes": nested(300),
    "what is deeper than Python goes": nested(5000),
}


@pytest.mark.parametrize("value", [*USUAL.values(), *UNUSUAL.values()], ids=[*USUAL, *UNUSUAL])
def test_an_event_is_written_as_serde_writes_it_with(value: Any) -> None:
    assert_equal_to_serde(run_event(value))


@pytest.mark.usefixtures("without_serde")
@pytest.mark.parametrize("value", USUAL.values(), ids=USUAL)
def test_serde_is_not_needed_for(value: Any) -> None:
    assert serialise(run_event(value))


@pytest.mark.parametrize("value", [*USUAL.values(), *UNUSUAL.values()], ids=[*USUAL, *UNUSUAL])
def test_a_dict_is_written_by_the_rules_that_serde_has_for_dicts_with(value: Any) -> None:
    assert_equal_to_serde({"run": {"runId": RUN_ID}, "list": [value], "facet": Holder(value), "value": value})


@pytest.mark.parametrize("event", [None, 1, "a", [Maybe(1)], (), Colour.RED, object(), RunEvent])
def test_what_serde_refuses_as_an_event_is_refused(event: object) -> None:
    with pytest.raises(EventError, match=r"NotAnAttrsClassError|TypeError"):
        serialise(event)


@pytest.mark.parametrize(
    "event",
    [
        run_event(eventType=None, inputs=None, outputs=[], run=Run(RUN_ID, None)),
        JobEvent(eventTime=WHEN, job=Job("ns", "job"), inputs=[InputDataset("a", "b")]),
        DatasetEvent(eventTime=WHEN, dataset=StaticDataset("ns", "name", facets={"a": Holder({"b": None})})),
        Dataset("not", "an event"),
        Maybe(),
        run_v1.RunEvent(run_v1.RunState.FAIL, WHEN, run_v1.Run(RUN_ID), run_v1.Job("ns", "job"), "producer"),
        run_v1.JobEvent(WHEN, "producer", "url", run_v1.Job("ns", "job"), [run_v1.Dataset("a", "b")], []),
        run_v1.DatasetEvent(WHEN, "producer", "url", run_v1.Dataset("ns", "name")),
    ],
    ids=lambda event: f"{type(event).__module__}.{type(event).__name__}",
)
def test_every_kind_of_event_is_written_as_serde_writes_it(event: object, without_serde: None) -> None:
    assert_equal_to_serde(event)


def test_not_a_number_goes_out_as_the_literal_that_serde_writes() -> None:
    assert b'"value": NaN' in serialise(run_event({"value": math.nan}))


def test_a_lone_surrogate_goes_out_as_an_escape() -> None:
    assert b'"\\ud800"' in serialise(run_event("\ud800"))


PLAIN_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4)
    | st.sampled_from([Colour.RED, Colour.NOTHING, TextColour.RED, RunState.FAIL])
)
REVIVABLE_LEAVES = (
    PLAIN_LEAVES
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=3)
    | st.binary(max_size=2)
    | st.datetimes()
    | st.uuids()
    | st.sampled_from([int64(), Colour.NAN, Text("t"), Decimal(1), {1}, frozenset({"a"})])
)
ODD_LEAVES = REVIVABLE_LEAVES | st.just(Colour.NESTED)  # which brings nulls into the JSON


def structures(leaves: st.SearchStrategy[Any], keys: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def around(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        few = st.lists(inner, max_size=3)
        return (
            few
            | few.map(tuple)
            | few.map(InfoList)
            | st.dictionaries(keys, inner, max_size=3)
            | st.dictionaries(st.text(max_size=2), inner, max_size=3).map(OrderedDict)
            | inner.map(Maybe)
            | inner.map(NoSlots)
            | st.builds(ownership_job.OwnershipJobFacet, owners=few)
            | st.builds(schema_dataset.SchemaDatasetFacetFields, name=inner, fields=few)
            | inner.map(lambda value: JobFacet().with_additional_properties(value=value, other=None))
        )

    return st.recursive(leaves, around, max_leaves=12)


@settings(deadline=None, max_examples=500)
@given(structures(PLAIN_LEAVES, st.text(max_size=3)))
def test_any_structure_of_usual_values_is_written_as_serde_writes_it(value: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(keepline.serialise, "_by_serde")
        assert_equal_to_serde(run_event(value))


@settings(deadline=None, max_examples=1000)
@given(structures(ODD_LEAVES, st.text(max_size=3) | st.integers(0, 3) | st.none() | st.booleans()))
def test_any_structure_is_written_as_serde_writes_it(value: Any) -> None:
    assert_equal_to_serde(run_event(value))


# What can't be written

UNWRITABLE = [{SECRET: 1, 2: 3}, {("a", SECRET): 1}, nested(5000, SECRET), Holder.__new__(Holder)]


@pytest.mark.parametrize("value", UNWRITABLE, ids=["mixed keys", "tuple key", "too deep", "unset attribute"])
def test_an_event_that_cannot_be_written_is_refused_without_a_word_of_its_content(value: Any) -> None:
    with pytest.raises(EventError, match="a RunEvent can't be turned into JSON") as caught:
        Event.from_openlineage(run_event(value))
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_the_refusal_names_the_exception_of_the_client() -> None:
    with pytest.raises(EventError, match=r"\(the OpenLineage client raised TypeError\)"):
        serialise(run_event({"a": 1, 2: 3}))


def test_a_value_that_holds_itself_is_refused() -> None:
    loop: dict[str, Any] = {}
    loop["loop"] = loop
    with pytest.raises(EventError, match="RecursionError"):
        serialise(run_event(loop))


# What is remembered of classes


def test_classes_made_for_one_event_do_not_pile_up() -> None:
    for _ in range(2 * keepline.serialise._MOST_RULES):
        serialise(attr.make_class("Once", {"value": attr.ib(default=1)})())
    assert len(keepline.serialise._rules) <= keepline.serialise._MOST_RULES


def test_no_event_outlives_its_serialisation() -> None:
    event = NoSlots(NoSlots())
    gone = weakref.ref(event)
    serialise(event)
    del event
    gc.collect()
    assert gone() is None


def test_the_event_is_left_as_it_was() -> None:
    event = run_event({"a": [None, {}, Maybe()], "b": (1,), "c": math.nan})
    before = copy.deepcopy(event)
    serialise(event)
    assert repr(event) == repr(before)


# What is told of an event


def test_a_run_event_is_told_by_its_run_id() -> None:
    event = Event.from_openlineage(run_event())
    assert (event.run_key, event.event_type) == (RUN_ID, "START")
    assert (event.job_namespace, event.job_name) == ("ns", "dag.task")


def test_a_job_event_is_told_by_its_job() -> None:
    event = Event.from_openlineage(JobEvent(eventTime=WHEN, job=Job("ns", "dag.task")))
    assert (event.run_key, event.event_type) == ("job:ns/dag.task", "")
    assert (event.job_namespace, event.job_name) == ("ns", "dag.task")


def test_a_dataset_event_is_told_by_its_dataset() -> None:
    event = Event.from_openlineage(DatasetEvent(eventTime=WHEN, dataset=StaticDataset("pg", "a.b")))
    assert (event.run_key, event.event_type) == ("dataset:pg/a.b", "")
    assert (event.job_namespace, event.job_name) == ("", "")


@pytest.mark.parametrize("state", RunState)
def test_the_event_type_is_the_state_of_the_run(state: RunState) -> None:
    assert Event.from_openlineage(run_event(eventType=state)).event_type == state.value


def test_a_run_event_without_a_type_has_an_empty_one() -> None:
    assert Event.from_openlineage(run_event(eventType=None)).event_type == ""


@pytest.mark.parametrize(
    "event",
    [
        run_event({"a": 1}),
        run_event(eventType=None),
        JobEvent(eventTime=WHEN, job=Job("ns", "job")),
        DatasetEvent(eventTime=WHEN, dataset=StaticDataset("ns", "name")),
        run_v1.RunEvent(run_v1.RunState.FAIL, WHEN, run_v1.Run(RUN_ID), run_v1.Job("ns", "job"), "producer"),
        {"eventType": "OTHER", "run": {"runId": RUN_ID}, "job": {"namespace": "ä", "name": "ö"}},
    ],
    ids=lambda event: type(event).__name__,
)
def test_the_same_is_told_of_an_object_and_of_its_json(event: object) -> None:
    taken = Event.from_openlineage(event)
    assert Event.from_json(taken.body) == taken


@pytest.mark.parametrize(
    ("document", "run_key"),
    [
        ({}, ""),
        ({"run": {}}, ""),
        ({"run": {"runId": None}}, ""),
        ({"run": {"runId": [SECRET]}}, ""),
        ({"run": "text"}, ""),
        ({"run": {"runId": 7}}, "7"),
        ({"run": None, "job": {"namespace": "ns", "name": "n"}}, "job:ns/n"),
        ({"job": {"name": "n"}}, "job:/n"),
        ({"job": {"namespace": {}, "name": []}}, ""),
        ({"dataset": {"namespace": "ns"}}, "dataset:ns/"),
        ({"dataset": {}}, ""),
        ({"dataset": 1}, ""),
        ({"run": {"runId": "a\0b"}}, "a?b"),
        ({"run": {"runId": "a\ud800bä"}}, "a?bä"),
    ],
)
def test_odd_documents_have_a_run_key_as_far_as_one_can_be_told(document: Any, run_key: str) -> None:
    assert Event.from_json(json.dumps(document).encode()).run_key == run_key


@pytest.mark.parametrize(
    ("value", "told"),
    [(None, ""), (7, "7"), (uuid.UUID(RUN_ID), RUN_ID), (TextColour.RED, "red"), (Text("a"), "a"), ([], "")],
)
def test_odd_names_in_an_object_never_raise(value: object, told: str) -> None:
    event = Event.from_openlineage(run_event(job=Job(value, "\ud800")))  # type: ignore[arg-type]
    assert (event.job_namespace, event.job_name) == (told, "?")
    assert type(event.job_namespace) is str


def test_an_attribute_that_raises_counts_as_absent() -> None:
    @attr.define(slots=False)
    class OddRun:
        facets = attr.field(factory=dict)

        @property
        def runId(self) -> str:
            raise RuntimeError(SECRET)

    assert Event.from_openlineage(run_event(run=OddRun())).run_key == ""


def test_an_event_is_immutable_and_can_be_sent_to_another_process() -> None:
    event = Event.from_openlineage(run_event())
    with pytest.raises(FrozenInstanceError):
        event.body = b""  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(event)) == event


def test_the_repr_of_an_event_leaves_out_its_body() -> None:
    assert SECRET not in repr(Event.from_openlineage(run_event(SECRET)))


# Events that come as JSON


def test_a_body_is_kept_byte_for_byte() -> None:
    body = b'{ "run":{"runId":"r"},"a":NaN, "b":"\\ud800", "c":1e400 ,"d":123456789012345678901234567890}\n'
    assert Event.from_json(body).body == body
    assert parse(body)["d"] == 123456789012345678901234567890


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "line 1, column 1"),
        (b'{"a": 1,\n "hunter2": hunter2}', "line 2, column 13"),
        (b'{"a": 1} hunter2', "line 1, column 10"),
        (b'{"hunter2": "\xff"}', "UnicodeDecodeError"),
        ("\ufeff{}".encode(), "line 1, column 1"),
        ('{"hunter2": 1}'.encode("utf-16"), "UnicodeDecodeError"),
        (b"[" * 100_000, "RecursionError"),
        (b'["hunter2"]', "it is a list"),
        (b'"hunter2"', "it is a str"),
        (b"null", "it is a NoneType"),
    ],
)
def test_what_is_not_a_json_object_is_refused_without_a_word_of_its_content(body: bytes, reason: str) -> None:
    with pytest.raises(EventError, match=reason) as caught:
        Event.from_json(body)
    assert SECRET not in str(caught.value)
    assert caught.value.__context__ is None


# Events that become objects again

PARENT = parent_run.ParentRunFacet(
    run=parent_run.Run(RUN_ID),
    job=parent_run.Job("parent", "dag"),
    root=parent_run.Root(parent_run.RootRun(RUN_ID), parent_run.RootJob("root", "first_dag")),
)
JOB_TYPE = job_type_job.JobTypeJobFacet("BATCH", "DBT", "MODEL")
FIELDS = [schema_dataset.SchemaDatasetFacetFields("a", "struct", fields=[{"name": "b"}])]

REVIVABLE = {
    "a run event of an older producer": run_event({"a": [1, {"b": {}}]}),
    "a run event with nothing optional": run_event(eventType=None, inputs=None, outputs=None),
    "a run event with facets of the client": run_event(
        run=Run(RUN_ID, {"parent": PARENT}),
        job=Job("ns", "n", {"jobType": JOB_TYPE, "more": JobFacet().with_additional_properties(x=1)}),
        inputs=[InputDataset("pg", "t", facets={"schema": schema_dataset.SchemaDatasetFacet(fields=FIELDS)})],
    ),
    "a run event with odd numbers": run_event([math.nan, -math.inf, 2**70, 0.1]),
    "a job event": JobEvent(eventTime=WHEN, job=Job("ns", "job", {"jobType": JOB_TYPE})),
    "a dataset event": DatasetEvent(eventTime=WHEN, dataset=StaticDataset("ns", "name")),
}


@pytest.mark.parametrize("event", REVIVABLE.values(), ids=REVIVABLE)
def test_a_revived_event_is_of_the_class_it_was_and_has_the_same_json(event: object) -> None:
    body = serialise(event)
    revived = revive(body)
    assert type(revived) is type(event)
    assert normalised(Serde.to_json(revived)) == normalised(body)
    assert normalised(serialise(revived)) == normalised(body)
    assert normalised(Serde.to_json(copy.deepcopy(revived))) == normalised(body)


def test_every_part_of_a_revived_event_is_of_the_class_it_was() -> None:
    fields = [
        schema_dataset.SchemaDatasetFacetFields("a"),
        schema_dataset.SchemaDatasetFacetFields("b", "int"),
    ]
    event = run_event(
        run=Run(RUN_ID, {"parent": PARENT}),
        job=Job("ns", "n", {"jobType": JOB_TYPE}),
        inputs=[InputDataset("pg", "t", facets={"schema": schema_dataset.SchemaDatasetFacet(fields=fields)})],
    )
    assert revive(serialise(event)) == event


def test_a_revived_event_keeps_its_producer_and_schema_whatever_this_process_would_write() -> None:
    document = json.loads(serialise(run_event(run=Run(RUN_ID, {"parent": PARENT}))))
    document["schemaURL"] = "https://schema.example/RunEvent"
    document["run"]["facets"]["parent"]["_schemaURL"] = "https://schema.example/9-9-9/ParentRunFacet"
    set_producer("https://relay.example")
    try:
        revived = revive(json.dumps(document).encode())
        assert isinstance(revived, RunEvent)
        assert isinstance(revived.run.facets["parent"], parent_run.ParentRunFacet)  # type: ignore[index]
        assert json.loads(Serde.to_json(revived)) == document
        del document["producer"]
        assert json.loads(Serde.to_json(revive(json.dumps(document).encode()))) == document
    finally:
        set_producer(event_v2.PRODUCER)


@pytest.mark.parametrize(
    "event",
    [
        run_event(run=Run(RUN_ID, {"parent": PARENT})),
        run_event(run=Run(RUN_ID, {"parent": attr.evolve(PARENT, root=None)})),
        run_event(run=Run(RUN_ID, {"parent": facet_v1.ParentRunFacet.create(RUN_ID, "old", "dag")})),
        run_event(),
        JobEvent(eventTime=WHEN, job=Job("ns", "job")),
        DatasetEvent(eventTime=WHEN, dataset=StaticDataset("ns", "name")),
    ],
    ids=["with a root", "with a parent", "with a deprecated parent", "without a parent", "job", "dataset"],
)
def test_kafka_gives_a_revived_event_the_key_it_gave_the_original(event: Any) -> None:
    kafka = object.__new__(KafkaTransport)
    assert kafka._get_message_key(revive(serialise(event))) == kafka._get_message_key(event)  # type: ignore[arg-type]


@pytest.mark.parametrize("facet", [JOB_TYPE, {"integration": "dbt", "jobType": "model"}])
def test_gcplineage_finds_the_integration_of_a_revived_event(facet: Any) -> None:
    revived: Any = revive(serialise(run_event(job=Job("ns", "n", {"jobType": facet}))))
    assert isinstance(revived, RunEvent)
    assert GCPLineageTransport(GCPLineageConfig("project"))._should_use_async_transport(revived)


def test_a_transformer_can_read_and_change_facets_that_the_client_has_no_class_for() -> None:
    revived: Any = revive(serialise(run_event({"inner": [{"a": 1}]})))
    holder = copy.deepcopy(revived).run.facets["holder"]
    assert holder.value.inner[0].a == holder["value"]["inner"][0]["a"] == 1
    assert not hasattr(holder, "missing")
    revived.run.facets["holder"].value = "changed"
    assert json.loads(Serde.to_json(revived))["run"]["facets"]["holder"]["value"] == "changed"


@pytest.mark.parametrize(
    "change",
    [
        {"unknown": 1},
        {"eventType": "UNHEARD_OF"},
        {"eventTime": "yesterday"},
        {"job": None},
        {"run": None},
        {"run": "text"},
        {"producer": nested(700)},
    ],
    ids=["unknown key", "event type", "event time", "null job", "null run", "run of text", "too deep"],
)
def test_what_the_classes_of_the_client_cannot_hold_comes_back_as_a_dict(change: dict[str, Any]) -> None:
    document = {**json.loads(serialise(run_event())), **change}
    revived = revive(json.dumps(document).encode())
    assert isinstance(revived, dict)
    assert revived == document


def test_an_event_that_its_class_would_change_comes_back_as_a_dict(monkeypatch: pytest.MonkeyPatch) -> None:
    @attr.define(kw_only=True)
    class Changing(RunEvent):
        eventTime: str = attr.field(converter=str.lower)  # noqa: N815 - the specification's name

    monkeypatch.setattr("keepline.revive._EVENTS", [(Changing, "run", "job")])
    assert revive(serialise(run_event())) == json.loads(serialise(run_event()))


def test_a_part_that_its_class_cannot_hold_does_not_keep_the_rest_from_being_revived() -> None:
    document = json.loads(serialise(run_event()))
    document["run"]["more"] = 1
    document["job"]["facets"]["sql"]["more"] = 1
    revived: Any = revive(json.dumps(document).encode())
    assert isinstance(revived, RunEvent)
    assert isinstance(revived.job, Job)
    assert (revived.run.more, revived.job.facets["sql"].query) == (1, "select 1")  # type: ignore[attr-defined,union-attr,index]
    assert json.loads(Serde.to_json(revived)) == document


@settings(deadline=None, max_examples=300)
@given(structures(REVIVABLE_LEAVES, st.text(max_size=3)))
def test_any_event_that_can_be_written_can_be_revived(value: Any) -> None:
    body = serialise(run_event(value))
    revived = revive(body)
    assert isinstance(revived, RunEvent)
    assert normalised(Serde.to_json(revived)) == normalised(body)


# What it costs to import


def test_taking_events_imports_neither_the_openlineage_client_nor_attrs() -> None:
    check = "import sys, keepline.event; print({'openlineage', 'attr'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
