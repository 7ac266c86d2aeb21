"""JSON Schema from a server: checking structured output and elicitation answers.

The schema and the value both come from outside. A schema is looked at before its
first use; what is malformed, too large, not self-contained or unsafe is refused, and
nothing is ever fetched. Checking is counted: a schema that makes more work than its
size and the value's justify is refused as well.

``jsonschema`` is used for what the quick check of the common keywords cannot decide,
and is imported then. Formats are annotations here, except in forms.

Specification: 2026-07-28, basic/index, server/tools and client/elicitation.
"""

from __future__ import annotations

import json
from contextvars import ContextVar
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple

from .._text import clean
from ..exceptions import SchemaRefused
from ..types import JSON
from ._fastschema import FastCheck, compile_fast
from ._forms import fill_defaults, form_schema, format_violation
from ._patterns import Pattern
from ._schemawalk import Dialect, Lookup, Survey, dialect_of, survey
from ._subschemas import is_schema
from ._violations import Violation, kind_of, violation_of
from .jsonrpc import dumps

__all__ = [
    "Validator",
    "Violation",
    "check_answer",
    "compile_schema",
    "fill_defaults",
]

#: Bytes of a schema as JSON, at most.
MAX_BYTES = 256 * 1024

#: Steps of one check: a base, so many for each part of the value, and never more.
#: A step takes about a microsecond.
BASE_STEPS = 200_000
STEPS_PER_PART = 16
MAX_STEPS = 3_000_000

#: Keywords that are applied within each other, at most. Python's own limit is near,
#: and parts of the library do not survive it.
MAX_NESTED = 180

#: Schemas that apply this many subschemas to one place are asked quickly whatever the
#: value's size; beyond, the product of both is bounded.
_NARROW = 8
_MAX_APPLICATIONS = 2_000_000


class Validator:
    """A compiled schema. Immutable; any number of threads may use it at once."""

    def __init__(self, schema: JSON, found: Survey, quick: Optional[FastCheck]) -> None:
        self._schema = schema
        self._found = found
        self._quick = quick
        self._library: Any = None

    def check(self, instance: JSON) -> Optional[Violation]:
        """Return how a value fails to fit, or ``None`` when it fits.

        Args:
            instance: a JSON value as :func:`json.loads` returns it.

        Raises:
            SchemaRefused: the check would take too long, or is impossible.
        """
        try:
            if self._is_clearly_valid(instance):
                return None
            return self._ask_library(instance)
        except SchemaRefused:
            raise
        except RecursionError:
            raise SchemaRefused("the schema recurs too deeply on this value") from None
        except BaseException as error:
            # Whatever a hostile schema makes the library stumble over. Its parts that
            # are written in Rust panic outside of Exception.
            name = type(error).__name__
            if not isinstance(error, Exception) and name != "PanicException":
                raise
            raise SchemaRefused(
                "the value cannot be checked against the schema (%s)" % name
            ) from error

    def _is_clearly_valid(self, instance: JSON) -> bool:
        quick = self._quick
        if quick is None:
            return False
        if quick.test is None:
            return True
        if quick.width > _NARROW:
            most = _MAX_APPLICATIONS // quick.width
            if _parts(instance, most) >= most:
                return False
        return quick.test(instance)

    def _ask_library(self, instance: JSON) -> Optional[Violation]:
        if self._library is None:
            # Two threads may both make one: wasteful, and harmless.
            self._library = _library_validator(self._schema, self._found.dialect)
        parts = _parts(instance, MAX_STEPS // STEPS_PER_PART)
        steps = min(BASE_STEPS + parts * STEPS_PER_PART, MAX_STEPS)
        token = _meter.set(_Meter(self._found, steps))
        try:
            error = next(self._library.iter_errors(instance), None)
            return None if error is None else violation_of(error)
        finally:
            _meter.reset(token)


def compile_schema(schema: JSON) -> Validator:
    """Return a validator for a schema, which is copied.

    The dialect is the one that ``$schema`` names (2020-12, 2019-09, draft-07, -06 or
    -04), 2020-12 if it names none. References have to stay within the schema.

    Raises:
        SchemaRefused: it is no schema, malformed, of an unknown dialect, too large,
            not self-contained, or unsafe. The message says which.
    """
    if not is_schema(schema):
        raise SchemaRefused(
            "a schema is an object or a boolean, not %s" % kind_of(schema)
        )
    dialect = dialect_of(schema)
    try:
        text = _as_text(schema)
        root = json.loads(text)
        if isinstance(root, dict):
            root.pop("$schema", None)
        if _has_addresses(text, dialect):
            found = survey(root, dialect, _LibraryLookup.over(root, dialect))
        else:
            found = survey(root, dialect, Lookup(root))
        return Validator(root, found, compile_fast(root, found))
    except RecursionError:
        raise SchemaRefused("the schema is nested too deeply") from None


def check_answer(
    requested_schema: Mapping[str, JSON], content: Mapping[str, JSON]
) -> Optional[Violation]:
    """Return how the answer to an elicitation fails to fit the form, if it does.

    A form is flat: text with length and format, numbers with bounds, booleans, and
    choices of one or several texts. What else its schema says is left to the server,
    except for a ``pattern`` that can be used safely.

    Raises:
        SchemaRefused: the form is malformed or too large.
        InvalidArguments: the answer is not JSON.
    """
    answer = json.loads(dumps(content))
    violation = compile_schema(form_schema(requested_schema)).check(answer)
    return violation or format_violation(requested_schema, answer)


def _as_text(schema: JSON) -> str:
    try:
        text = json.dumps(
            schema, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        )
    except (TypeError, ValueError) as error:
        raise SchemaRefused("the schema is not JSON: %s" % clean(error, 80)) from error
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise SchemaRefused(
            "the schema has %d bytes; the limit is %d" % (size, MAX_BYTES)
        )
    return text


def _parts(value: JSON, most: int) -> int:
    """Count the parts of a value; text counts by its length. Stop at `most`."""
    parts = 0
    pending = [value]
    while pending and parts < most:
        value = pending.pop()
        parts += 1
        if isinstance(value, dict):
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
        elif isinstance(value, str):
            parts += len(value) // 64
    return parts


# --- references ------------------------------------------------------------------


def _has_addresses(text: str, dialect: Dialect) -> bool:
    # Read off the text: a property of such a name costs time and does no harm.
    names = (dialect.id_keyword, "$anchor", "$dynamicAnchor")
    return 'ef":' in text and any('"%s":' % name in text for name in names)


def _registry(root: JSON, dialect: Dialect) -> Tuple[Any, Any, str]:
    """Return what knows a schema's addresses, its specification and its own address.

    Nothing is ever retrieved from anywhere.
    """
    import referencing.jsonschema

    specification: Any = {
        "2020-12": referencing.jsonschema.DRAFT202012,
        "2019-09": referencing.jsonschema.DRAFT201909,
        "draft-07": referencing.jsonschema.DRAFT7,
        "draft-06": referencing.jsonschema.DRAFT6,
        "draft-04": referencing.jsonschema.DRAFT4,
    }[dialect.name]
    resource = specification.create_resource(root)
    address = resource.id() or ""
    registry: Any = referencing.Registry()
    # Once and for all: to look for an anchor in a document that was not crawled
    # crawls it, each time.
    registry = registry.with_resource(address, resource).crawl()
    return registry, specification, address


class _LibraryLookup(Lookup):
    """Knows addresses and anchors as well as pointers."""

    def __init__(self, resolver: Any, specification: Any) -> None:
        self._resolver = resolver
        self._specification = specification

    @classmethod
    def over(cls, root: JSON, dialect: Dialect) -> "_LibraryLookup":
        try:
            registry, specification, address = _registry(root, dialect)
            return cls(registry.resolver(address), specification)
        except Exception as error:
            raise SchemaRefused("the schema's addresses are malformed") from error

    def entering(self, schema: JSON) -> Lookup:
        resource = self._specification.create_resource(schema)
        try:
            resolver = self._resolver.in_subresource(resource)
        except Exception as error:
            raise SchemaRefused("the schema's addresses are malformed") from error
        return _LibraryLookup(resolver, self._specification)

    def find(self, reference: str) -> Tuple[JSON, Lookup]:
        try:
            resolved = self._resolver.lookup(reference)
        except Exception as error:
            raise LookupError(reference) from error
        there = _LibraryLookup(resolved.resolver, self._specification)
        return resolved.contents, there


# --- the library, counted --------------------------------------------------------
#
# A validator class of the library is a table of functions, one for each keyword:
# f(validator, keyword's value, instance, schema) yields errors. Here each of them
# pays before it runs, and those that a schema could turn against us are our own.

Errors = Iterator[Any]
_Keyword = Callable[[Any, JSON, JSON, JSON], Optional[Errors]]


class _Meter:
    """How much work one check may still do."""

    def __init__(self, found: Survey, steps: int) -> None:
        self.found = found
        self._steps = steps
        self.nested = 0

    def spend(self, steps: int) -> None:
        self._steps -= steps
        if self._steps < 0:
            raise SchemaRefused("checking this value against the schema takes too long")

    def matches(self, text: str, string: str) -> bool:
        # The walk has judged all patterns that it found; judge any other one now.
        pattern = self.found.patterns.get(text) or Pattern(text)
        # A step of the matcher takes about a fiftieth of ours.
        self.spend(1 + pattern.steps(len(string)) // 50)
        return pattern.search(string)


_meter: ContextVar[_Meter] = ContextVar("mcpsync.schema.meter")

_classes: Dict[str, Any] = {}


def _library_validator(schema: JSON, dialect: Dialect) -> Any:
    if dialect.name not in _classes:
        _classes[dialect.name] = _library_class(dialect)
    registry, _, _ = _registry(schema, dialect)
    return _classes[dialect.name](schema, registry=registry)


def _library_class(dialect: Dialect) -> Any:
    from jsonschema import validators

    base: Any = {
        "2020-12": validators.Draft202012Validator,
        "2019-09": validators.Draft201909Validator,
        "draft-07": validators.Draft7Validator,
        "draft-06": validators.Draft6Validator,
        "draft-04": validators.Draft4Validator,
    }[dialect.name]
    functions = {
        keyword: _counted(keyword, _OUR_KEYWORDS.get(keyword, function))
        for keyword, function in base.VALIDATORS.items()
    }
    create: Any = validators.create
    return create(
        meta_schema=base.META_SCHEMA,
        validators=functions,
        type_checker=base.TYPE_CHECKER,
        id_of=base.ID_OF,
        applicable_validators=_ref_alone if dialect.ref_alone else _all_keywords,
    )


def _all_keywords(schema: Dict[str, JSON]) -> List[Tuple[str, JSON]]:
    return list(schema.items())


def _ref_alone(schema: Dict[str, JSON]) -> List[Tuple[str, JSON]]:
    if "$ref" in schema:
        return [("$ref", schema["$ref"])]
    return list(schema.items())


def _counted(keyword: str, function: _Keyword) -> _Keyword:
    price = _PRICES.get(keyword, _usual_price)

    def counted(validator: Any, value: JSON, instance: JSON, schema: JSON) -> Errors:
        meter = _meter.get()
        meter.spend(price(meter, value, instance, schema))
        if meter.nested >= MAX_NESTED:
            raise RecursionError
        meter.nested += 1
        try:
            for error in function(validator, value, instance, schema) or ():
                if not isinstance(error.validator, str):
                    # It is new, and the library put all of the instance in its text.
                    meter.spend(_parts(instance, MAX_STEPS))
                yield error
        finally:
            meter.nested -= 1

    return counted


def _size(value: JSON) -> int:
    return len(value) if isinstance(value, (list, dict)) else 0


def _usual_price(meter: _Meter, value: JSON, instance: JSON, schema: JSON) -> int:
    return 1 + _size(value)


def _price_of_items(meter: _Meter, value: JSON, instance: JSON, schema: JSON) -> int:
    return 1 + _size(value) + 4 * _size(instance)


def _price_of_equality(meter: _Meter, value: JSON, instance: JSON, schema: JSON) -> int:
    return 1 + _parts(value, MAX_STEPS)


def _price_of_reference(
    meter: _Meter, value: JSON, instance: JSON, schema: JSON
) -> int:
    return 10


def _price_of_dynamic_reference(
    meter: _Meter, value: JSON, instance: JSON, schema: JSON
) -> int:
    # Every address on the way is asked, and those that lack the anchor are crawled.
    return 20 if meter.found.addresses < 2 else 20 + 20 * meter.found.size


def _price_of_rest(meter: _Meter, value: JSON, instance: JSON, schema: JSON) -> int:
    # The library lists what was evaluated, once for each subschema, and searches that
    # list for each part of the instance. It runs the patterns on the names by itself.
    size = _size(instance)
    if isinstance(instance, dict):
        for name in instance:
            for text in meter.found.name_patterns:
                meter.matches(text, name)
    return 1 + size + size * size * meter.found.weights.get(id(schema), 1) // 16


_PRICES: Dict[str, Callable[[_Meter, JSON, JSON, JSON], int]] = {
    "$dynamicRef": _price_of_dynamic_reference,
    "$recursiveRef": _price_of_dynamic_reference,
    "$ref": _price_of_reference,
    "additionalItems": _price_of_items,
    "additionalProperties": _price_of_items,
    "const": _price_of_equality,
    "contains": _price_of_items,
    "enum": _price_of_equality,
    "items": _price_of_items,
    # With a tiny divisor the library computes in fractions.
    "multipleOf": lambda meter, value, instance, schema: 20,
    "patternProperties": _price_of_items,
    "propertyNames": _price_of_items,
    "unevaluatedItems": _price_of_rest,
    "unevaluatedProperties": _price_of_rest,
}


# --- keywords of our own ---------------------------------------------------------


def _error(message: str, context: Tuple[Any, ...] = ()) -> Any:
    from jsonschema.exceptions import ValidationError

    return ValidationError(message, context=context)


def _pattern(validator: Any, text: JSON, instance: JSON, schema: JSON) -> Errors:
    if isinstance(instance, str) and not _meter.get().matches(text, instance):
        yield _error("")


def _pattern_properties(
    validator: Any, patterns: JSON, instance: JSON, schema: JSON
) -> Errors:
    if not isinstance(instance, dict):
        return
    meter = _meter.get()
    for text, subschema in patterns.items():
        for name, value in instance.items():
            if meter.matches(text, name):
                yield from validator.descend(value, subschema, path=name)


def _additional_properties(
    validator: Any, subschema: JSON, instance: JSON, schema: JSON
) -> Errors:
    if not isinstance(instance, dict) or subschema is True:
        return
    meter = _meter.get()
    properties = schema.get("properties", {})
    patterns = list(schema.get("patternProperties", ()))
    extra = [
        name
        for name in instance
        if name not in properties
        and not any(meter.matches(text, name) for text in patterns)
    ]
    if subschema is False:
        if extra:
            shown = ", ".join(clean(repr(name), 40) for name in extra[:3])
            more = ", …" if len(extra) > 3 else ""
            yield _error("properties that are not allowed: " + shown + more)
        return
    for name in extra:
        yield from validator.descend(instance[name], subschema, path=name)


def _unique_items(validator: Any, unique: JSON, instance: JSON, schema: JSON) -> Errors:
    # The library compares every object with every other.
    if not unique or not isinstance(instance, list):
        return
    _meter.get().spend(2 * _parts(instance, MAX_STEPS))
    if len({_comparable(item) for item in instance}) < len(instance):
        yield _error("")


def _comparable(value: JSON) -> object:
    """Return what is equal, and hashes alike, for JSON values that are equal.

    Numbers become text, because a server can choose numbers whose hashes collide.
    """
    if isinstance(value, list):
        return ("array",) + tuple([_comparable(item) for item in value])
    if isinstance(value, dict):
        return frozenset([(name, _comparable(item)) for name, item in value.items()])
    if value is None or isinstance(value, (str, bool)):
        return value if isinstance(value, str) else ("constant", repr(value))
    if isinstance(value, float) and not value.is_integer():
        return ("number", repr(value))
    return ("number", "%d" % value)


def _failures(
    validator: Any, branches: List[JSON], instance: JSON
) -> Iterator[Optional[Any]]:
    """Yield the first error of each branch; the library keeps all of them."""
    for branch in branches:
        yield next(validator.descend(instance, branch), None)


def _any_of(validator: Any, branches: JSON, instance: JSON, schema: JSON) -> Errors:
    context = []
    for failure in _failures(validator, branches, instance):
        if failure is None:
            return
        context.append(failure)
    yield _error("fits none of the allowed forms", tuple(context))


def _one_of(validator: Any, branches: JSON, instance: JSON, schema: JSON) -> Errors:
    context = []
    fitting = 0
    for failure in _failures(validator, branches, instance):
        if failure is not None:
            context.append(failure)
            continue
        fitting += 1
        if fitting > 1:
            yield _error("fits more than one of the forms that exclude each other")
            return
    if not fitting:
        yield _error("fits none of the allowed forms", tuple(context))


def _not(validator: Any, subschema: JSON, instance: JSON, schema: JSON) -> Errors:
    if next(validator.descend(instance, subschema), None) is None:
        yield _error("")


_OUR_KEYWORDS: Dict[str, _Keyword] = {
    "additionalProperties": _additional_properties,
    "anyOf": _any_of,
    "not": _not,
    "oneOf": _one_of,
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "uniqueItems": _unique_items,
}
