"""Read and write the objects of the protocol: the machinery under `mcpsync.types`.

A class says in its field metadata how each value is read; names on the wire are
the camel-case form of the Python names. The metadata is looked at once per class
and kept in a table, so that a listing of hundreds of tools costs next to nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping as MappingABC
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    List,
    Mapping,
    NamedTuple,
    NoReturn,
    Optional,
    Tuple,
    Type,
    TypeVar,
)

from ._text import clean
from .exceptions import UnexpectedResult

__all__ = [
    "ANY",
    "FLAG",
    "INTEGER",
    "JSON",
    "LIST",
    "META",
    "Mismatch",
    "NUMBER",
    "OBJECT",
    "STRING",
    "STRINGS",
    "TOKEN",
    "WireObject",
    "list_of",
    "many",
    "nested",
    "one_of",
    "read_object",
    "read_or_raise",
    "read_string",
    "record",
    "refuse",
    "wire",
    "within",
]

#: Any JSON value: None, bool, int, float, str, a list or a dict of them.
JSON = Any

T = TypeVar("T", bound="WireObject")
Item = TypeVar("Item")
Read = Callable[[JSON], JSON]

#: Characters of one text, items of one array and characters of a whole repr.
_SHOWN_TEXT = 80
_SHOWN_ITEMS = 3
_SHOWN_IN_ALL = 600

if TYPE_CHECKING:
    from dataclasses import dataclass as record
else:

    def record(**_options: bool) -> Callable[[type], type]:
        """Make a dataclass that is frozen, for a third of the import time.

        `dataclass(frozen=True)` compiles five methods for each class, which are the
        same in all of ours: WireObject has four of them, only `__init__` is made.
        """
        return dataclasses.dataclass(repr=False, eq=False)


# --- what does not fit ------------------------------------------------------------


class Mismatch(Exception):
    """Say what does not fit and, collected on the way out, where it is."""

    def __init__(self, problem: str, *steps: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.steps = list(steps)

    def describe(self, path: str = "") -> str:
        """Return the path, innermost step last, and the problem."""
        where = (path + "".join(reversed(self.steps))).lstrip(".")
        return "%s %s" % (clean(where, 200), self.problem) if where else self.problem

    def error(self, name: str, path: str = "") -> UnexpectedResult:
        """Return the exception for the caller of `from_wire`."""
        return UnexpectedResult("%s: %s" % (name, self.describe(path)))


def refuse(expected: str, value: JSON, *steps: str) -> Mismatch:
    """Return the mismatch for a value that is not what was expected."""
    return Mismatch("should be %s, not %s" % (expected, _came(value)), *steps)


def _came(value: JSON) -> str:
    if isinstance(value, str):
        return "'%s'" % clean(value, 40)
    if isinstance(value, MappingABC):
        return "an object"
    if isinstance(value, list):
        return "an array of %d" % len(value)
    return _scalar(value)


def _scalar(value: JSON) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and value.bit_length() > 256:
        # Python refuses to write very long integers in decimal.
        return "a very long integer"
    if isinstance(value, (int, float)):
        return repr(value)
    return "a %s" % type(value).__name__


def within(step: str, read: Callable[[JSON], Item], value: JSON) -> Item:
    """Read a value; a mismatch in it learns the step that led there."""
    try:
        return read(value)
    except Mismatch as mismatch:
        mismatch.steps.append(step)
        raise


def read_or_raise(
    name: str, read: Callable[[JSON], Item], value: JSON, path: str
) -> Item:
    """Read a value; say of what name it is, and where, when it does not fit."""
    try:
        return read(value)
    except Mismatch as mismatch:
        raise mismatch.error(name, path) from None
    except RecursionError:
        raise Mismatch("is nested too deeply").error(name, path) from None


# --- how one value is read --------------------------------------------------------


def read_object(value: JSON) -> JSON:
    """Return an object as it is."""
    if not isinstance(value, MappingABC):
        raise refuse("an object", value)
    return value


def _read_any(value: JSON) -> JSON:
    return value


def read_string(value: JSON) -> str:
    """Return a string as it is."""
    if not isinstance(value, str):
        raise refuse("a string", value)
    return value


def _read_flag(value: JSON) -> bool:
    if not isinstance(value, bool):
        raise refuse("true or false", value)
    return value


def _read_number(value: JSON) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise refuse("a number", value)
    return value


def _read_integer(value: JSON) -> int:
    number = _read_number(value)
    if isinstance(number, float):
        # JSON has one kind of number: 10.0 is an integer, and some servers send it.
        if not number.is_integer():
            raise refuse("an integer", value)
        return int(number)
    return number


def _read_token(value: JSON) -> JSON:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise refuse("a string or an integer", value)
    return value


def _read_list(value: JSON) -> JSON:
    if not isinstance(value, list):
        raise refuse("an array", value)
    return value


def list_of(read: Callable[[JSON], Item]) -> Callable[[JSON], List[Item]]:
    """Return the reader of an array whose items all have to fit."""

    def read_items(value: JSON) -> List[Item]:
        items: List[Item] = []
        try:
            for item in _read_list(value):
                items.append(read(item))
        except Mismatch as mismatch:
            if isinstance(value, list):
                mismatch.steps.append("[%d]" % len(items))
            raise
        return items

    return read_items


def wire(read: Read, name: Optional[str] = None) -> Mapping[str, object]:
    """Return the metadata of a field: its reader, and its name if that is unusual."""
    return {"read": read, "name": name}


def nested(kind: Type["WireObject"]) -> Mapping[str, object]:
    """Return the metadata of a field that holds one object of the class."""
    return wire(kind._read)


def many(kind: Type["WireObject"]) -> Mapping[str, object]:
    """Return the metadata of a field that holds a list of objects of the class."""
    return wire(list_of(kind._read))


def one_of(*choices: str) -> Mapping[str, object]:
    """Return the metadata of a field that has one of these strings."""

    def read_choice(value: JSON) -> str:
        if not isinstance(value, str) or value not in choices:
            raise refuse("one of %s" % ", ".join(choices), value)
        return value

    return wire(read_choice)


ANY = wire(_read_any)
STRING = wire(read_string)
FLAG = wire(_read_flag)
NUMBER = wire(_read_number)
INTEGER = wire(_read_integer)
TOKEN = wire(_read_token)
OBJECT = wire(read_object)
LIST = wire(_read_list)
STRINGS = wire(list_of(read_string))
META = wire(read_object, "_meta")


# --- the table of a class ---------------------------------------------------------


class _Row(NamedTuple):
    attribute: str
    read: Read
    required: bool
    default: Callable[[], JSON]


class _Table(NamedTuple):
    rows: Dict[str, _Row]
    required: List[Tuple[str, str]]
    defaults: Dict[str, JSON]
    factories: List[Tuple[str, Callable[[], JSON]]]
    compared: List[str]
    shown: List[Tuple[str, Callable[[], JSON]]]


# Filled at first use. Two threads may build the same table at once: they are equal,
# and storing one is atomic, so there is no lock.
_TABLES: Dict[type, _Table] = {}


def _table(kind: Type["WireObject"]) -> _Table:
    table = _TABLES.get(kind)
    if table is None:
        table = _TABLES[kind] = _build(kind)
    return table


def _build(kind: Type["WireObject"]) -> _Table:
    table = _Table({}, [], {}, [], [], [])
    for item in dataclasses.fields(kind):
        default = _default_of(item)
        if item.compare:
            table.compared.append(item.name)
        if item.repr:
            table.shown.append((item.name, default))
        required = default is _nothing
        if item.default is not dataclasses.MISSING:
            table.defaults[item.name] = item.default
        elif not required and item.name != "raw":
            table.factories.append((item.name, default))
        if "read" in item.metadata:
            name = item.metadata["name"] or _camel(item.name)
            read = item.metadata["read"]
            table.rows[name] = _Row(item.name, read, required, default)
            if required:
                table.required.append((item.name, name))
    return table


def _nothing() -> object:
    """Return what equals no value: the default of a field that has none."""
    return object()


def _default_of(item: "dataclasses.Field[Any]") -> Callable[[], JSON]:
    if item.default_factory is not dataclasses.MISSING:
        return item.default_factory
    value = item.default
    return _nothing if value is dataclasses.MISSING else lambda: value


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


# --- the base of all --------------------------------------------------------------


@record(frozen=True, repr=False, eq=False)
class WireObject:
    """One object of the protocol, as a frozen record.

    The last two fields of each class are `meta` (``_meta``) and `raw`, the whole
    object as it was received, in which unknown fields survive. Instances cannot be
    changed or hashed; they compare by their fields without `raw`, and they pickle.
    They may be shared by threads.
    """

    @classmethod
    def from_wire(cls: Type[T], value: Mapping[str, JSON], path: str = "") -> T:
        """Read an object that was received.

        Args:
            value: the decoded JSON object. It is kept as `raw`, not copied.
            path: where it was found, for the message of an error.

        Raises:
            UnexpectedResult: it does not have the shape that the specification
                gives. The message names the place and what was found there.
        """
        return read_or_raise(cls.__name__, cls._read, value, path)

    def to_wire(self) -> Dict[str, JSON]:
        """Return the JSON object: `raw` with the fields of this record over it.

        What is None or has its default is left out, unless `raw` says it. Values
        are shared with this record, not copied.
        """
        return self._fill(dict(getattr(self, "raw")))

    @classmethod
    def _read(cls: Type[T], value: JSON) -> T:
        record_ = cls.__new__(cls)
        # Past __init__, which takes four times as long.
        record_.__dict__.update(cls._values(value))
        return record_

    @classmethod
    def _values(cls, value: JSON) -> Dict[str, JSON]:
        """Return the attributes for an object that was received."""
        read_object(value)
        table = _table(cls)
        values = dict(table.defaults)
        rows = table.rows
        for key, item in value.items():
            row = rows.get(key)
            if row is None or (item is None and not row.required):
                continue
            try:
                values[row.attribute] = row.read(item)
            except Mismatch as mismatch:
                mismatch.steps.append("." + key)
                raise
        for attribute, key in table.required:
            if attribute not in values:
                raise Mismatch("is missing", "." + key)
        for attribute, factory in table.factories:
            if attribute not in values:
                values[attribute] = factory()
        values["raw"] = value
        return values

    def _fill(self, target: Dict[str, JSON]) -> Dict[str, JSON]:
        """Write the fields of this record over an object."""
        for key, row in _table(type(self)).rows.items():
            value = getattr(self, row.attribute)
            if value is None and not row.required:
                if target.get(key) is not None:
                    del target[key]
            elif target.get(key) is not None or value != row.default():
                target[key] = _dump(value)
        return target

    # A class that defines __eq__ alone has no __hash__: these hold dicts and lists.
    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(
            getattr(self, name) == getattr(other, name)
            for name in _table(type(self)).compared
        )

    def __setattr__(self, name: str, value: object) -> None:
        # The last field of each class is `raw`: with it, __init__ is done.
        if "raw" in self.__dict__:
            raise dataclasses.FrozenInstanceError("cannot assign to field %r" % name)
        self.__dict__[name] = value

    def __delattr__(self, name: str) -> NoReturn:
        raise dataclasses.FrozenInstanceError("cannot delete field %r" % name)

    def __repr__(self) -> str:
        text = _show(self, 0)
        return text if len(text) <= _SHOWN_IN_ALL else text[:_SHOWN_IN_ALL] + "…"


def _dump(value: JSON) -> JSON:
    if isinstance(value, WireObject):
        return value.to_wire()
    if isinstance(value, (list, tuple)):
        return [_dump(item) for item in value]
    return value


# --- short reprs ------------------------------------------------------------------


def _show(value: object, depth: int) -> str:
    """Return a bounded repr on one line that is safe to print."""
    if isinstance(value, str):
        return "'%s'" % clean(value, _SHOWN_TEXT)
    if isinstance(value, WireObject):
        return _show_record(value, depth)
    if isinstance(value, MappingABC):
        return _show_object(value, depth)
    if isinstance(value, (list, tuple)):
        return _show_list(value, depth)
    if isinstance(value, int) and value.bit_length() > 256:
        return "…"
    return clean(repr(value), _SHOWN_TEXT)


def _show_record(value: WireObject, depth: int) -> str:
    name = type(value).__name__
    if depth > 2:
        return "%s(…)" % name
    parts = []
    for attribute, default in _table(type(value)).shown:
        item = getattr(value, attribute)
        if item != default():
            parts.append("%s=%s" % (attribute, _show(item, depth + 1)))
    return "%s(%s)" % (name, ", ".join(parts))


def _show_object(value: Mapping[str, object], depth: int) -> str:
    if depth > 2:
        return "{…}" if value else "{}"
    parts = [
        "%s: %s" % (_show(key, depth), _show(value[key], depth + 1))
        for key, _ in zip(value, range(_SHOWN_ITEMS))
    ]
    if len(value) > _SHOWN_ITEMS:
        parts.append("… %d more" % (len(value) - _SHOWN_ITEMS))
    return "{%s}" % ", ".join(parts)


def _show_list(value: "List[object] | Tuple[object, ...]", depth: int) -> str:
    if depth > 2:
        return "[…]" if value else "[]"
    parts = [_show(item, depth + 1) for item in value[:_SHOWN_ITEMS]]
    if len(value) > _SHOWN_ITEMS:
        parts.append("… %d more" % (len(value) - _SHOWN_ITEMS))
    return "[%s]" % ", ".join(parts)
