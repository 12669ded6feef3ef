"""Nodes that compute texts, numbers and choices from values that the file has."""

import ast
import json
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from ....graph import json_text
from ....graph.errors import GraphFileError

Inputs = Mapping[str, Any]  # JSON values
Function = Callable[[Inputs], tuple[Any, ...]]
_LONGEST = 2**15
_LARGEST = 10**15
FUNCTIONS: dict[str, Function] = {}
"""By node type: from the node's inputs to its outputs."""


def _node(*kinds: str) -> Callable[[Function], Function]:
    def add(function: Function) -> Function:
        FUNCTIONS.update(dict.fromkeys(kinds, function))
        return function

    return add


# ------------------------------------------------------------------------------------------------- plain values
@_node("PrimitiveInt", "PrimitiveFloat", "PrimitiveString", "PrimitiveStringMultiline", "PrimitiveBoolean")
def _primitive(inputs: Inputs) -> tuple[Any, ...]:
    return (inputs["value"],)


@_node("String Literal", "String Literal (Image Saver)")
def _string(inputs: Inputs) -> tuple[Any, ...]:
    return (inputs["string"],)


@_node("Seed (rgthree)")
def _seed(inputs: Inputs) -> tuple[Any, ...]:
    return (inputs["seed"],)


@_node("CR Prompt Text")
def _prompt(inputs: Inputs) -> tuple[Any, ...]:
    return (inputs["prompt"],)


@_node("ttN text", "Text Multiline", "Text _O")
def _text(inputs: Inputs) -> tuple[Any, ...]:
    return (inputs["text"],)


@_node("CustomCombo")
def _combo(inputs: Inputs) -> tuple[Any, ...]:
    choice = inputs["choice"]
    options = [inputs[name] for name in sorted(inputs) if name.startswith("option")]
    return choice, options.index(choice) if choice in options else int(inputs.get("index", 0))


@_node("ComfyNumberConvert")
def _number(inputs: Inputs) -> tuple[Any, ...]:
    value = float(inputs["value"])
    return value, int(value)


@_node("ComfyMathExpression")
def _math(inputs: Inputs) -> tuple[Any, ...]:
    names = {name.rpartition(".")[2]: value for name, value in inputs.items() if name.startswith("values.")}
    value = evaluate(str(inputs["expression"]), names)
    return float(value), int(value), bool(value)


@_node("ResolutionSelector")
def _resolution(inputs: Inputs) -> tuple[Any, ...]:
    """Width and height of an aspect ratio ("16:9 (Widescreen)") and so many million pixels."""
    found = re.match(r"\s*(\d{1,5})\s*:\s*(\d{1,5})", str(inputs["aspect_ratio"]))
    if found is None:
        raise GraphFileError(f"The aspect ratio {inputs['aspect_ratio']!r} has no numbers. Write one such as '3:2'.")
    wide, high = int(found[1]), int(found[2])
    pixels, multiple = float(inputs["megapixels"]) * 1024 * 1024, int(inputs.get("multiple", 8))
    height = math.sqrt(pixels * high / wide)
    return tuple(max(round(side / multiple), 1) * multiple for side in (height * wide / high, height))


# ------------------------------------------------------------------------------------------------- texts
@_node("StringConcatenate")
def _concatenate(inputs: Inputs) -> tuple[Any, ...]:
    return (f"{inputs.get('string_a', '')}{inputs.get('delimiter', '')}{inputs.get('string_b', '')}",)


@_node("StringReplace")
def _replace(inputs: Inputs) -> tuple[Any, ...]:
    return (str(inputs["string"]).replace(str(inputs["find"]), str(inputs["replace"])),)


@_node("StringLength")
def _length(inputs: Inputs) -> tuple[Any, ...]:
    return (len(str(inputs["string"])),)


@_node("StringSubstring")
def _substring(inputs: Inputs) -> tuple[Any, ...]:
    return (str(inputs["string"])[int(inputs["start"]) : int(inputs["end"])],)


@_node("StringTrim")
def _trim(inputs: Inputs) -> tuple[Any, ...]:
    text = str(inputs["string"])
    return ({"Left": text.lstrip(), "Right": text.rstrip()}.get(str(inputs.get("mode")), text.strip()),)


@_node("CaseConverter")
def _case(inputs: Inputs) -> tuple[Any, ...]:
    text = str(inputs["string"])
    made = {
        "UPPERCASE": text.upper(),
        "lowercase": text.lower(),
        "Capitalize": text.capitalize(),
        "Title Case": text.title(),
    }
    return (made.get(str(inputs.get("mode")), text),)


@_node("StringContains")
def _contains(inputs: Inputs) -> tuple[Any, ...]:
    text, part = str(inputs["string"]), str(inputs["substring"])
    return (part in text if inputs.get("case_sensitive", True) else part.lower() in text.lower(),)


@_node("StringFormat")
def _format(inputs: Inputs) -> tuple[Any, ...]:
    values = {name.rpartition(".")[2]: value for name, value in inputs.items() if name.startswith("values.")}
    return (re.sub(r"\{(\w+)\}", lambda m: str(values.get(m[1], m[0])), str(inputs["f_string"])),)


@_node("JsonExtractString")
def _json(inputs: Inputs) -> tuple[Any, ...]:
    try:
        data = json_text.parse(str(inputs["json_string"]))
    except json_text.JsonTextError:
        return ("",)
    found = data.get(str(inputs["key"])) if isinstance(data, dict) else None
    return ("" if found is None else found if isinstance(found, str) else json.dumps(found),)


@_node("RegexExtract", "RegexReplace")
def _regex(inputs: Inputs) -> tuple[Any, ...]:
    raise GraphFileError("Patterns of strangers are not run, since one can take years. Fill the node.")


# ------------------------------------------------------------------------------------------------- arithmetic
_BINARY: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow, ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_, ast.BitXor: operator.xor, ast.LShift: operator.lshift, ast.RShift: operator.rshift,
}  # fmt: skip
_UNARY: Mapping[type, Callable[[Any], Any]] = {
    ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Invert: operator.invert, ast.Not: operator.not_,
}  # fmt: skip
_COMPARE: Mapping[type, Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}  # fmt: skip
_CALLS: Mapping[str, Callable[..., Any]] = {
    "min": min, "max": max, "abs": abs, "round": round, "floor": math.floor, "ceil": math.ceil, "sqrt": math.sqrt,
    "int": int, "float": float, "log": math.log, "exp": math.exp, "sin": math.sin, "cos": math.cos,
}  # fmt: skip


def evaluate(expression: str, names: Mapping[str, Any]) -> float:
    """The number that an arithmetic expression of these names is. No code of the file runs.

    >>> evaluate("max(a, 64) & -8", {"a": 100})
    96

    Raises:
        GraphFileError: other syntax than arithmetic, an unknown name, or a number that is too large.
    """
    try:
        if len(expression) > _LONGEST:
            raise ValueError("it is too long")
        return _value(ast.parse(expression.strip(), mode="eval").body, names)
    except (SyntaxError, ValueError, TypeError, ArithmeticError, KeyError, RecursionError) as error:
        raise GraphFileError(f"The expression {expression[:80]!r} cannot be computed ({error}).") from None


def _value(node: ast.AST, names: Mapping[str, Any]) -> Any:  # numbers
    match node:
        case ast.Constant(value=int() | float() as number):
            made = number
        case ast.Name(id=name):
            made = names[name]
        case ast.BinOp(left=left, op=op, right=right):
            first, second = _value(left, names), _value(right, names)
            if isinstance(op, ast.Pow | ast.LShift) and abs(second) > 64:
                raise ValueError("its exponent is too large")
            made = _BINARY[type(op)](first, second)
        case ast.UnaryOp(op=op, operand=operand):
            made = _UNARY[type(op)](_value(operand, names))
        case ast.BoolOp(op=op, values=values):
            found = [_value(one, names) for one in values]
            made = all(found) if isinstance(op, ast.And) else any(found)
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            made = _COMPARE[type(op)](_value(left, names), _value(right, names))
        case ast.IfExp(test=test, body=body, orelse=other):
            made = _value(body if _value(test, names) else other, names)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
            made = _CALLS[name](*(_value(one, names) for one in args))
        case _:
            raise ValueError(f"it has {type(node).__name__}")
    if isinstance(made, complex) or abs(made) > _LARGEST:
        raise ValueError("a number is too large")
    return made
