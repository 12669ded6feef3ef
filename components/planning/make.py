"""Make the plan of a call."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...graph.call import settle
from ...graph.structure import Structure
from .plan import Plan
from .propose import proposals
from .walked import Walked


def plan(graph: Structure, positional: Sequence[Any], keywords: Mapping[str, Any]) -> Plan:
    """The plan of a call: `graph.plan(**inputs)`. Loads no weights, and computes with shapes alone.

    Raises:
        InputError: the same as for a call.
    """
    walked = Walked.of(settle(graph, positional, keywords))
    made = walked.plan()
    return made if made.fits else replace(made, proposals=tuple(proposals(walked)))
