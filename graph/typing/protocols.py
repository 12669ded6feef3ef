"""Protocols: the members that one requires, and whether a class has them with fitting types."""

import inspect
from typing import Any, Generic, Protocol, get_origin

from .arrays import Flows
from .callables import UNKNOWN, Call, call_of, calls_fit, hints_of, member_type

_NOT_MEMBERS = {*dir(Protocol), *dir(Generic), *dir(object), "__annotations__", "__match_args__", "__type_params__"} | {
    "__protocol_attrs__", "__non_callable_proto_members__", "__static_attributes__", "__firstlineno__", "_abc_impl",
    "_is_protocol", "_is_runtime_protocol", "__orig_bases__", "__parameters__", "__abstractmethods__",
    "__annotate__", "__annotations_cache__", "__annotate_func__", "__slots__", "__dict__", "__weakref__",
}  # fmt: skip


def is_protocol(cls: Any) -> bool:
    """Whether this class is itself a Protocol."""
    return isinstance(cls, type) and bool(getattr(cls, "_is_protocol", False))


def protocol_members(protocol: type) -> set[str]:
    """The names of the members that a protocol requires."""
    owners = [c for c in protocol.__mro__ if is_protocol(c) and c not in (Protocol, Generic)]
    names = {n for c in owners for n in (*vars(c), *inspect.get_annotations(c))}
    return {n for n in names if n == "__call__" or n not in _NOT_MEMBERS}


def has_members(have: Any, protocol: Any, flows: Flows) -> bool:
    """Whether a class has the members of a protocol: attributes of fitting types, methods of fitting signatures."""
    cls, protocol_class = get_origin(have) or have, get_origin(protocol) or protocol
    class_hints, protocol_hints = hints_of(cls), hints_of(protocol_class)
    for name in protocol_members(protocol_class):
        if name not in class_hints and not any(name in vars(c) for c in cls.__mro__):  # not of a metaclass
            return False
        mine = call_of(have) if name == "__call__" else member_type(have, name, class_hints)
        theirs = member_type(protocol, name, protocol_hints, have)
        if isinstance(theirs, Call):
            call = mine if isinstance(mine, Call) or mine is UNKNOWN else call_of(mine)
            if call is None or (isinstance(call, Call) and not calls_fit(call, theirs, flows)):
                return False
        elif isinstance(mine, Call):
            called = call_of(theirs)
            if called is None:
                if theirs is not UNKNOWN and theirs is not object and theirs is not Any:
                    return False
            elif not calls_fit(mine, called, flows):
                return False
        elif mine is not UNKNOWN and theirs is not UNKNOWN and not flows(mine, theirs):
            return False
    return True
