"""Read a pickle as data: nothing it names is imported, nothing in it is called.

Python's unpickler runs what a file asks for. This reader interprets the opcodes itself, and its
stack holds nothing but plain values and three inert records: a name (`Name`), a call that somebody
asked for (`Call`) and an external reference (`Reference`). There is no callable to be called, so
no file can do more than describe. Sizes are bounded, and structures that share parts stay shared,
so that a small file cannot grow into a large one.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from mgdm_audio.errors import CheckpointError

__all__ = ["Call", "Name", "Reference", "read_inert"]

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


@dataclass(frozen=True, eq=False)
class Reference:
    """Something kept outside the pickle, such as a tensor's storage."""

    identity: Any


class _Mark:
    """The stack's marker."""


_MARK = _Mark()


def read_inert(data: bytes, where: str) -> Any:
    """Read a pickle of any protocol as inert data.

    ``collections.OrderedDict`` and the plain containers become Python's own; every other object
    becomes a `Call`.

    Parameters
    ----------
    data : bytes
        The pickle.
    where : str
        The file, for messages.

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
    machine = _Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(BytesIO(data))):
            if count >= _MOST_OPCODES:
                raise CheckpointError(f"{where}: its pickle has over {_MOST_OPCODES} instructions")
            if opcode.name == "STOP":
                if len(machine.stack) != 1:
                    raise ValueError("values left on the stack")
                return machine.pop()
            machine.step(opcode.name, argument)
    except CheckpointError:
        raise
    except Exception as error:
        # genops, and lookups in what the file described, raise whatever fits; it is all damage.
        reason = str(error) or type(error).__name__
        raise CheckpointError(f"{where}: its pickle is damaged ({reason:.120})") from error
    raise CheckpointError(f"{where}: its pickle ends early")


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
    "MARK": lambda: _MARK,
}
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_IGNORED = {"PROTO", "FRAME"}
_ORDERED_DICT = Name("collections", "OrderedDict")


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a marker where a value belongs")
        return value

    def top(self) -> Any:
        value = self.stack[-1]
        if value is _MARK:
            raise ValueError("a marker where a value belongs")
        return value

    def pop_to_mark(self) -> list[Any]:
        for place in range(len(self.stack) - 1, -1, -1):
            if self.stack[place] is _MARK:
                values = self.stack[place + 1 :]
                del self.stack[place:]
                return values
        raise ValueError("no marker on the stack")

    def step(self, name: str, argument: Any) -> None:
        """Apply one opcode."""
        if name in _IGNORED:
            return
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            self.stack.append(bytes(argument) if isinstance(argument, bytearray) else argument)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[int(argument)] = self.top()
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.top()
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[int(argument)])
        elif name == "POP":
            self.stack.pop()
        elif name == "POP_MARK":
            self.pop_to_mark()
        elif name == "DUP":
            self.stack.append(self.top())
        else:
            handler = getattr(self, f"_op_{name.lower()}", None)
            if handler is None:
                raise ValueError(f"the instruction {name} has no place in a checkpoint")
            handler(argument)

    # -- containers -------------------------------------------------------------------------------

    def _op_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self.pop_to_mark()))

    def _op_tuple1(self, _: Any) -> None:
        self._pack(1)

    def _op_tuple2(self, _: Any) -> None:
        self._pack(2)

    def _op_tuple3(self, _: Any) -> None:
        self._pack(3)

    def _pack(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(values)))

    def _op_list(self, _: Any) -> None:
        self.stack.append(self.pop_to_mark())

    def _op_dict(self, _: Any) -> None:
        values = self.pop_to_mark()
        target: dict[Any, Any] = {}
        self._put(target, values)
        self.stack.append(target)

    def _op_frozenset(self, _: Any) -> None:
        self.stack.append(frozenset(_key(value) for value in self.pop_to_mark()))

    def _op_append(self, _: Any) -> None:
        value = self.pop()
        self._extend(self.top(), [value])

    def _op_appends(self, _: Any) -> None:
        values = self.pop_to_mark()
        self._extend(self.top(), values)

    def _op_additems(self, _: Any) -> None:
        values = self.pop_to_mark()
        target = self.top()
        if isinstance(target, set):
            target.update(_key(value) for value in values)
        else:
            self._extend(target, values)

    def _op_setitem(self, _: Any) -> None:
        value, key = self.pop(), self.pop()
        self._put(self.top(), [key, value])

    def _op_setitems(self, _: Any) -> None:
        values = self.pop_to_mark()
        self._put(self.top(), values)

    @staticmethod
    def _extend(target: Any, values: list[Any]) -> None:
        if isinstance(target, Call):
            target.items.extend(values)
        elif isinstance(target, list):
            target.extend(values)
        else:
            raise ValueError("items for something that is no list")

    @staticmethod
    def _put(target: Any, values: list[Any]) -> None:
        if len(values) % 2:
            raise ValueError("a key without a value")
        pairs = list(zip(values[::2], values[1::2], strict=True))
        if isinstance(target, Call):
            target.items.extend(pairs)
        elif isinstance(target, dict):
            target.update((_key(key), value) for key, value in pairs)
        else:
            raise ValueError("keys for something that is no dict")

    # -- names, calls, references: recorded only --------------------------------------------------

    def _op_global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(Name(module, name))

    def _op_stack_global(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("a name that is no text")
        self.stack.append(Name(module, name))

    def _op_reduce(self, _: Any) -> None:
        arguments, function = self.pop(), self.pop()
        self._call(function, arguments)

    def _op_newobj(self, _: Any) -> None:
        self._op_reduce(None)

    def _op_newobj_ex(self, _: Any) -> None:
        keywords, arguments, function = self.pop(), self.pop(), self.pop()
        self._call(function, (arguments, keywords))

    def _op_obj(self, _: Any) -> None:
        function, *arguments = self.pop_to_mark()
        self._call(function, tuple(arguments))

    def _op_inst(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._call(Name(module, name), tuple(self.pop_to_mark()))

    def _call(self, function: Any, arguments: Any) -> None:
        if function == _ORDERED_DICT and arguments == ():
            self.stack.append({})
        else:
            self.stack.append(Call(function, arguments))

    def _op_build(self, _: Any) -> None:
        state, target = self.pop(), self.top()
        if isinstance(target, Call):
            target.state = state
        elif not isinstance(target, dict):  # an OrderedDict's attributes are of no interest
            raise ValueError("a state for something that has none")

    def _op_persid(self, argument: Any) -> None:
        self.stack.append(Reference(argument))

    def _op_binpersid(self, _: Any) -> None:
        self.stack.append(Reference(self.pop()))


def _key(value: Any) -> Any:
    # Only what hashes in constant time, and without collisions that a file could arrange.
    plain = value is None or isinstance(value, bool | float | str | bytes | Name | Call | Reference)
    if not plain and not (isinstance(value, int) and abs(value) < 1 << 60):
        raise ValueError(f"a {type(value).__name__} as a key")
    return value
