"""The type relation: how a hint is read, which type may flow into which, and a type as text."""

from .arrays import rank as rank
from .assignability import assignable as assignable
from .assignability import meet as meet
from .callables import is_callable as is_callable
from .hints import is_array as is_array
from .hints import split_annotated as split_annotated
from .hints import tags_of as tags_of
from .hints import union as union
from .hints import union_members as union_members
from .hints import untagged as untagged
from .port import Port as Port
from .port import families_of as families_of
from .port import port_of as port_of
from .protocols import is_protocol as is_protocol
from .protocols import protocol_members as protocol_members
from .text import type_text as type_text
