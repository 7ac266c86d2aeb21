"""Regular expressions from a server, used only as far as they cannot run for ever.

Python's matcher backtracks and holds the interpreter's lock while it does: a pattern
like ``^(a+)+$`` stops every thread, and no timeout can end it. So each pattern is
judged before its first use. Its positions (the characters it reads) form a graph;
the matcher's work on a text is the tree of all paths through that graph that the text
can spell.

Two different ways around one loop make that tree grow exponentially: the pattern is
refused. Otherwise its size is a polynomial in the text's length, which yields the
longest text that the pattern may be used on.
"""

from __future__ import annotations

import importlib
import re
import sys
from types import ModuleType
from typing import Callable, Dict, Iterable, List, NamedTuple, Optional, Set, Tuple

from .._text import clean
from ..exceptions import SchemaRefused
from ..types import JSON

__all__ = ["MAX_PATTERN", "Pattern"]

#: Characters of a pattern, at most.
MAX_PATTERN = 256

#: Steps of the matcher on one text, at most: some 0.1 s.
MAX_STEPS = 4_000_000

#: A pattern that cannot even be used on texts of this length is refused at once.
SHORTEST_BOUND = 64

#: No text longer than this, however harmless the pattern: the matcher remembers every
#: turn of a loop, at up to a hundred bytes each.
LONGEST_BOUND = 500_000

#: What it costs to try the next place of a text, in steps.
_PLACE = 8

#: Up to this many positions a counted repeat is written out, beyond it is a loop.
_WRITE_OUT = 64
_MAX_POSITIONS = 256
_MAX_EDGES = 8192

_parser: Optional[ModuleType] = None


class _Unsafe(Exception):
    """Why a pattern cannot be used."""


class Pattern:
    """A pattern that is safe on texts of up to `limit` characters.

    Threads may share it.

    Attributes:
        text: the pattern as the schema has it.
        limit: the longest text, in characters, that it is used on.
        cheap: whether it makes 20 steps for each character at most.
    """

    def __init__(self, text: str) -> None:
        if len(text) > MAX_PATTERN:
            raise SchemaRefused(
                "a pattern of %d characters; the limit is %d" % (len(text), MAX_PATTERN)
            )
        try:
            self._work = _work_of(text)
            self._search = re.compile(text).search
        except _Unsafe as error:
            raise SchemaRefused(
                "the pattern %s %s" % (clean(repr(text), 100), error)
            ) from None
        # A warning is an exception where the host turned warnings into errors.
        except (re.error, OverflowError, RecursionError, Warning) as error:
            raise SchemaRefused(
                "the pattern %s is invalid: %s"
                % (clean(repr(text), 100), clean(error, 80))
            ) from error
        self.text = text
        self._steps: Dict[int, int] = {}
        self.limit = _longest(self._work)
        self.cheap = self._work(LONGEST_BOUND) <= 20 * LONGEST_BOUND
        if not self.limit:
            raise SchemaRefused(
                "the pattern %s could run for too long" % clean(repr(text), 100)
            )

    def steps(self, length: int) -> int:
        """Return how many steps a text of that length may cost, rounded up."""
        size = min(length, self.limit).bit_length()
        if size not in self._steps:
            self._steps[size] = self._work(min(1 << size, self.limit))
        return self._steps[size]

    def search(self, text: str) -> bool:
        """Tell whether the pattern matches anywhere in the text.

        Raises:
            SchemaRefused: the text is longer than `limit`.
        """
        if len(text) > self.limit:
            raise SchemaRefused(
                "the pattern %s could run for too long on %d characters"
                % (clean(repr(self.text), 100), len(text))
            )
        return self._search(text) is not None


def _longest(work: Callable[[int], int]) -> int:
    if work(SHORTEST_BOUND) > MAX_STEPS:
        return 0
    low, high = SHORTEST_BOUND, LONGEST_BOUND
    while low < high:
        middle = (low + high + 1) // 2
        if work(middle) <= MAX_STEPS:
            low = middle
        else:
            high = middle - 1
    return low


def _work_of(text: str) -> Callable[[int], int]:
    graph = _Builder(_parse_module()).build(_parse_module().parse(text))
    return graph.work


def _parse_module() -> ModuleType:
    # Private since Python 3.11, under another name before. Whatever this module does
    # not know about a pattern's parts makes the pattern unsafe.
    global _parser
    if _parser is None:
        name = "re._parser" if sys.version_info >= (3, 11) else "sre_parse"
        _parser = importlib.import_module(name)
    return _parser


# --- characters ------------------------------------------------------------------
#
# A set of characters is an integer with one bit for each ASCII character and one for
# all the others together: what may overlap is taken to overlap.

_BEYOND = 1 << 128
_EVERY = (1 << 129) - 1
_CATEGORIES: Dict[str, Callable[[str], bool]] = {
    "DIGIT": str.isdecimal,
    "SPACE": str.isspace,
    "WORD": lambda character: character.isalnum() or character == "_",
}


def _span(low: int, high: int) -> int:
    ascii_part = ((1 << (min(high, 127) + 1)) - 1) & ~((1 << min(low, 128)) - 1)
    return ascii_part | (_BEYOND if high > 127 else 0)


def _category(code: JSON) -> int:
    name = str(code).replace("CATEGORY_", "")
    test = _CATEGORIES.get(name.replace("NOT_", ""))
    if test is None:
        raise _Unsafe("has an unknown kind of character")
    mask = sum(1 << code for code in range(128) if test(chr(code)))
    return (_EVERY & ~mask if name.startswith("NOT_") else mask) | _BEYOND


def _characters(op: str, argument: JSON) -> int:
    if op == "LITERAL":
        return _span(argument, argument)
    if op == "NOT_LITERAL":
        return (_EVERY & ~_span(argument, argument)) | _BEYOND
    if op == "ANY":
        return _EVERY & ~(1 << 10)
    if op == "RANGE":
        return _span(*argument)
    if op == "CATEGORY":
        return _category(argument)
    if op == "IN":
        return _set_of_characters(argument)
    raise _Unsafe("has an unknown kind of character")


def _set_of_characters(items: Iterable[JSON]) -> int:
    mask, negated = 0, False
    for op, argument in items:
        if str(op) == "NEGATE":
            negated = True
        else:
            mask |= _characters(str(op), argument)
    # What a negated set leaves of the characters beyond ASCII is unknown.
    return (_EVERY & ~mask) | _BEYOND if negated else mask


_READS = frozenset({"LITERAL", "NOT_LITERAL", "ANY", "IN"})
_REPEATS = frozenset({"MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"})
_READS_NOTHING = frozenset({"AT", "ASSERT", "ASSERT_NOT"})

# --- the graph of a pattern ------------------------------------------------------

#: How many ways lead to each position without reading a character in between.
_Ways = Dict[int, int]


class _Part(NamedTuple):
    """A part of a pattern: how it is entered, left, and passed without reading."""

    empty: int
    first: _Ways
    last: _Ways


_NOTHING = _Part(1, {}, {})


def _add(ways: _Ways, more: _Ways, times: int = 1) -> _Ways:
    total = dict(ways)
    for position, count in more.items():
        total[position] = total.get(position, 0) + count * times
    return total


class _Builder:
    """Turns a parsed pattern into its graph."""

    def __init__(self, parser: ModuleType) -> None:
        self._unlimited = int(parser.MAXREPEAT)
        self._unicode = int(parser.SRE_FLAG_UNICODE)
        self._parser = parser
        self._masks: List[int] = []
        self._follow: List[_Ways] = []
        self._edges = 0
        self._asides: List[_Graph] = []

    def build(self, tree: JSON) -> "_Graph":
        # Flags change what the rest of a pattern means; JSON Schema knows none.
        if tree.state.flags & ~self._unicode:
            raise _Unsafe("has inline flags")
        items = list(tree)
        number = 0
        while number < len(items) and str(items[number][0]) in _READS_NOTHING:
            number += 1
        self._sequence(items[:number])
        # What stands before everything else is tried once, not once on each path.
        upfront, self._asides = self._asides, []
        whole = self._sequence(items[number:])
        graph = _Graph(self._masks, self._follow, whole, self._asides)
        graph.upfront = upfront
        graph.anchored = _is_anchored(tree)
        return graph

    def _sequence(self, items: Iterable[JSON]) -> _Part:
        part = _NOTHING
        for op, argument in items:
            part = self._join(part, self._item(str(op), argument))
        return part

    def _item(self, op: str, argument: JSON) -> _Part:
        if op in _READS:
            return self._position(_characters(op, argument))
        if op in _REPEATS:
            return self._repeat(*argument)
        if op == "SUBPATTERN":
            if argument[1] or argument[2]:
                raise _Unsafe("has inline flags")
            return self._sequence(argument[3])
        if op == "ATOMIC_GROUP":
            return self._sequence(argument)
        if op == "BRANCH":
            return self._either([self._sequence(branch) for branch in argument[1]])
        if op in ("ASSERT", "ASSERT_NOT"):
            return self._aside(argument[1])
        if op == "AT":
            return _NOTHING
        if op == "FAILURE":
            return _Part(0, {}, {})
        raise _Unsafe("has a part of an unsafe kind (%s)" % op.lower())

    def _position(self, mask: int) -> _Part:
        if len(self._masks) >= _MAX_POSITIONS:
            raise _Unsafe("is too large")
        self._masks.append(mask)
        self._follow.append({})
        ways = {len(self._masks) - 1: 1}
        return _Part(0, ways, ways)

    def _link(self, last: _Ways, first: _Ways) -> None:
        self._edges += len(last) * len(first)
        if self._edges > _MAX_EDGES:
            raise _Unsafe("is too large")
        for position, count in last.items():
            self._follow[position] = _add(self._follow[position], first, count)

    def _join(self, one: _Part, two: _Part) -> _Part:
        self._link(one.last, two.first)
        return _Part(
            one.empty * two.empty,
            _add(one.first, two.first, one.empty) if one.empty else one.first,
            _add(two.last, one.last, two.empty) if two.empty else two.last,
        )

    def _either(self, parts: List[_Part]) -> _Part:
        empty = 0
        first: _Ways = {}
        last: _Ways = {}
        for part in parts:
            empty += part.empty
            first = _add(first, part.first)
            last = _add(last, part.last)
        return _Part(empty, first, last)

    def _aside(self, items: Iterable[JSON]) -> _Part:
        # A look ahead or behind is a match of its own, at each place where it stands.
        inner = _Builder(self._parser)
        whole = inner._sequence(items)
        self._asides.append(_Graph(inner._masks, inner._follow, whole, inner._asides))
        return _NOTHING

    def _repeat(self, low: int, high: int, items: JSON) -> _Part:
        if high == 0:
            return _NOTHING
        before = len(self._masks)
        part = self._sequence(items)
        size = len(self._masks) - before
        if high == 1:
            return part if low else self._either([_NOTHING, part])
        if size and high != self._unlimited and high * size <= _WRITE_OUT:
            return self._written_out(low, high, items, part)
        if part.empty or not size:
            # Each turn could read nothing in several ways, or count to a billion.
            raise _Unsafe("repeats what may be empty")
        self._link(part.last, part.first)
        return part if low else self._either([_NOTHING, part])

    def _written_out(self, low: int, high: int, items: JSON, part: _Part) -> _Part:
        copies = [part] + [self._sequence(items) for _ in range(high - 1)]
        whole = _NOTHING
        # From the end, because what is optional nests: x(x(x)?)?
        for number in range(high, 0, -1):
            whole = self._join(copies[number - 1], whole)
            if number > low:
                whole = self._either([_NOTHING, whole])
        return whole


def _is_anchored(items: Iterable[JSON]) -> bool:
    for op, argument in items:
        if str(op) == "AT":
            return str(argument) in ("AT_BEGINNING", "AT_BEGINNING_STRING")
        if str(op) == "SUBPATTERN":
            return _is_anchored(argument[3])
        if str(op) == "BRANCH":
            return all(_is_anchored(branch) for branch in argument[1])
        return False
    return False


# --- how much work a graph makes -------------------------------------------------


class _Loop(NamedTuple):
    """Positions that can reach each other, and how texts leave them.

    `width` bounds the paths that stay inside at the same time. `tempting` are the
    exits taken on a character that could as well stay inside, `forced` the others:
    for each character, the positions that are entered.
    """

    is_loop: bool
    width: int
    tempting: List[_Ways]
    forced: List[_Ways]


class _Graph:
    """The positions of a pattern, and the work that they make.

    Attributes:
        anchored: whether a match can start at the text's beginning alone.
        upfront: what is tried once for each place where a match may start.
    """

    def __init__(
        self,
        masks: List[int],
        follow: List[_Ways],
        whole: _Part,
        asides: List["_Graph"],
    ) -> None:
        self.anchored = True
        self.upfront: List[_Graph] = []
        self._follow = follow
        self._masks = _classes(masks)
        self._start = whole.first
        self._asides = asides
        ends = (whole.last.get(position, 0) for position in range(len(masks)))
        leaving = [sum(f.values()) + e for f, e in zip(follow, ends)]
        entering = sum(whole.first.values()) + whole.empty
        #: The most attempts that any one position makes to go on.
        self._attempts = max(leaving + [entering, 1])
        components = _components(follow)
        self._home = {p: i for i, c in enumerate(components) for p in c}
        self._loops = [self._examine(set(members)) for members in components]

    def work(self, length: int) -> int:
        """Return the matcher's steps on a text of that length, at most."""
        # The matcher tries each place of the text, although none but the first fits.
        places = _PLACE * (length + 1)
        steps = self._work_at_one_place(length)
        return steps + places if self.anchored else steps * (length + 1) + places

    def _work_at_one_place(self, length: int) -> int:
        sizes: List[int] = []
        for loop in self._loops:
            tempting = self._worst(loop.tempting, sizes)
            forced = self._worst(loop.forced, sizes)
            if not loop.is_loop:
                sizes.append(1 + forced)
            elif loop.width == 1:
                sizes.append(length * (1 + tempting) + forced)
            else:
                sizes.append(loop.width * length * (1 + max(tempting, forced)))
        nodes = 1 + self._worst(self._by_class(self._start), sizes)
        asides = sum(aside._work_at_one_place(length) for aside in self._asides)
        upfront = sum(aside._work_at_one_place(length) for aside in self.upfront)
        return nodes * (self._attempts + asides) + upfront

    def _worst(self, exits: List[_Ways], sizes: List[int]) -> int:
        return max(
            (sum(n * sizes[self._home[p]] for p, n in ways.items()) for ways in exits),
            default=0,
        )

    def _by_class(self, ways: _Ways) -> List[_Ways]:
        """Split ways by the class of the character that takes them."""
        every = 0
        for position in ways:
            every |= self._masks[position]
        split = []
        while every:
            bit = every & -every
            every ^= bit
            split.append({p: n for p, n in ways.items() if self._masks[p] & bit})
        return split

    def _examine(self, members: Set[int]) -> _Loop:
        inside = {
            p: {s: n for s, n in self._follow[p].items() if s in members}
            for p in members
        }
        is_loop = any(inside.values())
        branches = self._check_ambiguity(inside)
        tempting: List[_Ways] = []
        forced: List[_Ways] = []
        for position in members:
            for ways in self._by_class(self._follow[position]):
                out = {s: n for s, n in ways.items() if s not in members}
                if out:
                    (tempting if len(out) < len(ways) else forced).append(out)
        return _Loop(is_loop, len(members) if branches else 1, tempting, forced)

    def _check_ambiguity(self, inside: Dict[int, _Ways]) -> bool:
        """Tell whether paths inside a loop can part; refuse it if they meet again.

        Two paths that part on the same text and meet again can do so in each turn
        of the loop: their number doubles with each.
        """
        parted: Set[Tuple[int, int]] = set()
        for position, ways in inside.items():
            if any(count > 1 for count in ways.values()):
                raise _Unsafe("could run for ever")
            parted.update(self._pairs(ways, ways))
        branches = bool(parted)
        pending = list(parted)
        tries = 0
        while pending:
            one, two = pending.pop()
            tries += len(inside[one]) * len(inside[two])
            if tries > _MAX_EDGES:
                raise _Unsafe("is too ambiguous")
            if self._can_meet(inside[one], inside[two]):
                raise _Unsafe("could run for ever")
            fresh = self._pairs(inside[one], inside[two]) - parted
            parted |= fresh
            pending.extend(fresh)
        return branches

    def _pairs(self, one: _Ways, two: _Ways) -> Set[Tuple[int, int]]:
        """Return different positions that the same character can lead to."""
        return {
            (min(a, b), max(a, b))
            for a in one
            for b in two
            if a != b and self._masks[a] & self._masks[b]
        }

    def _can_meet(self, one: _Ways, two: _Ways) -> bool:
        return any(a in two and self._masks[a] for a in one)


def _classes(masks: List[int]) -> List[int]:
    """Return the masks over classes of characters that no position tells apart."""
    signatures: Dict[Tuple[int, ...], int] = {}
    for bit in range(129):
        signature = tuple(p for p, mask in enumerate(masks) if mask >> bit & 1)
        if signature:
            signatures.setdefault(signature, len(signatures))
    classes = [0] * len(masks)
    for signature, number in signatures.items():
        for position in signature:
            classes[position] |= 1 << number
    return classes


def _components(follow: List[_Ways]) -> List[List[int]]:
    """Return the sets of positions that reach each other, exits before entrances."""
    count = len(follow)
    reach = [sum(1 << s for s in ways) | 1 << p for p, ways in enumerate(follow)]
    for middle in range(count):
        bit = 1 << middle
        for position in range(count):
            if reach[position] & bit:
                reach[position] |= reach[middle]
    together: Dict[int, List[int]] = {}
    for position, reached in enumerate(reach):
        # Those that reach each other reach the same positions.
        together.setdefault(reached, []).append(position)
    return [
        together[reached]
        for reached in sorted(together, key=lambda r: bin(r).count("1"))
    ]
