"""Read a pickle as data: nothing it names is imported, nothing in it is called.

Python's unpickler runs what a file asks for. This one is Python's own, but what it would look up
becomes a `Name`, what it would call a `Call`, what lies outside the pickle a `Reference`: inert
records all three, so that no file can do more than describe. Sizes are bounded, and structures
that share parts stay shared, so that a small file cannot grow into a large one.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from mgdm_audio.errors import CheckpointError

_MOST_OPCODES = 300_000


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle names."""

    module: str
    name: str


@dataclass(eq=False)
class Call:
    """A call that a pickle asks for, recorded and not made.

    Parameters
    ----------
    function : object
        What would be called; normally a `Name`.
    arguments : object
        Positional arguments, normally a tuple.
    state : object
        What the pickle would set on the result.
    items : list
        What it would append to or put into the result.
    """

    function: Any
    arguments: Any
    state: Any = None
    items: list[Any] = field(default_factory=list)

    def append(self, item: Any) -> None:
        """Record an item; the unpickler calls this where it would fill a list."""
        self.items.append(item)


@dataclass(frozen=True, eq=False)
class Reference:
    """Something kept outside the pickle, such as a tensor's storage."""

    identity: Any


def read_inert(data: bytes, where: str) -> Any:
    """Read a pickle of any protocol as inert data.

    ``collections.OrderedDict`` and the plain containers become Python's own; every other object
    becomes a `Call`. Messages begin with ``where``, the file.

    Returns
    -------
    object
        None, booleans, numbers, text, bytes, tuples, lists, dicts, sets, `Name`, `Call`,
        `Reference`.

    Raises
    ------
    CheckpointError
        If the pickle is damaged, too long, or does what no pickle of a checkpoint does.
    """
    try:
        unpickler = _InertUnpickler(BytesIO(data), encoding="latin1")
        value = unpickler.load()
        if unpickler.stack or unpickler.metastack:
            raise ValueError("values left on the stack")
        return value
    except _TooLong as error:
        raise CheckpointError(f"{where}: its pickle has {error}") from error
    except Exception as error:
        # The unpickler, fed with what the file says, raises whatever fits; it is all damage.
        reason = str(error) or type(error).__name__
        raise CheckpointError(f"{where}: its pickle is damaged ({reason:.120})") from error


class _TooLong(Exception):
    pass


class _Instructions(dict[int, Callable[[Any], None]]):
    """What to do at each instruction, for a bounded number of them."""

    left = 0

    def __getitem__(self, code: int) -> Callable[[Any], None]:
        self.left -= 1
        if self.left < 0:
            raise _TooLong(f"over {_MOST_OPCODES} instructions")
        if code not in self:
            raise ValueError(f"the instruction {chr(code)!r} has no place in a checkpoint")
        return super().__getitem__(code)


# The unpickler written in Python: the one in C hashes keys and calls classes out of our reach.
class _InertUnpickler(pickle._Unpickler):
    stack: list[Any]  # of the innermost marker
    metastack: list[list[Any]]  # of those around it
    pop_mark: Callable[[], list[Any]]

    def __init__(self, file: BytesIO, **options: Any) -> None:
        super().__init__(file, **options)
        instructions = _Instructions(pickle._Unpickler.dispatch | _HANDLERS)
        instructions.left = _MOST_OPCODES
        for code in (*pickle.EXT1, *pickle.EXT2, *pickle.EXT4):
            del instructions[code]
        self.dispatch = instructions  # type: ignore[misc] - its own, since it counts

    def find_class(self, module: str, name: str) -> Name:
        """Nothing is found, only named."""
        return Name(module, name)

    def persistent_load(self, pid: Any) -> Reference:
        """What is kept elsewhere stays there."""
        return Reference(pid)

    def _record(self, function: Any, arguments: Any) -> None:
        ordered = function == Name("collections", "OrderedDict") and arguments == ()
        self.stack.append({} if ordered else Call(function, arguments))

    # -- instructions that would call something: the unpickler's own are replaced -----------------

    def _reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self._record(function, arguments)

    def _newobj_ex(self) -> None:
        keywords, arguments, function = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self._record(function, (arguments, keywords))

    def _instantiate(self, klass: Any, args: Any) -> None:  # for INST and OBJ
        self._record(klass, tuple(args))

    def _build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Call):
            target.state = state
        elif not isinstance(target, dict):  # an OrderedDict's attributes are of no interest
            raise ValueError("a state for something that has none")

    # -- instructions that hash: a tuple of tuples of tuples would be hashed for ever -------------

    def _setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _put(self.stack[-1], [key, value])

    def _setitems(self) -> None:
        items = self.pop_mark()
        _put(self.stack[-1], items)

    def _dict(self) -> None:
        items = self.pop_mark()
        self.stack.append({})
        _put(self.stack[-1], items)

    def _frozenset(self) -> None:
        items = self.pop_mark()
        self.stack.append(frozenset(_keys(items)))

    def _additems(self) -> None:
        items, target = self.pop_mark(), self.stack[-1]
        if isinstance(target, set):
            target.update(_keys(items))
        else:
            for item in items:
                target.append(item)


_HANDLERS: dict[int, Callable[[Any], None]] = {
    code[0]: handler
    for code, handler in (
        (pickle.REDUCE, _InertUnpickler._reduce),
        (pickle.NEWOBJ, _InertUnpickler._reduce),
        (pickle.NEWOBJ_EX, _InertUnpickler._newobj_ex),
        (pickle.BUILD, _InertUnpickler._build),
        (pickle.SETITEM, _InertUnpickler._setitem),
        (pickle.SETITEMS, _InertUnpickler._setitems),
        (pickle.DICT, _InertUnpickler._dict),
        (pickle.FROZENSET, _InertUnpickler._frozenset),
        (pickle.ADDITEMS, _InertUnpickler._additems),
    )
}


def _put(target: Any, items: list[Any]) -> None:
    if len(items) % 2:
        raise ValueError("a key without a value")
    if isinstance(target, Call):
        target.items.extend(zip(items[::2], items[1::2], strict=True))
    elif isinstance(target, dict):
        target.update(zip(_keys(items[::2]), items[1::2], strict=True))
    else:
        raise ValueError("keys for something that is no dict")


def _keys(values: Iterable[Any]) -> Iterable[Any]:
    # Only what hashes in constant time, and without collisions that a file could arrange.
    for value in values:
        plain = value is None or isinstance(
            value, bool | float | str | bytes | Name | Call | Reference
        )
        if not plain and not (isinstance(value, int) and abs(value) < 1 << 60):
            raise ValueError(f"a {type(value).__name__} as a key")
        yield value
