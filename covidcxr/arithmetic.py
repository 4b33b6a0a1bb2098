"""Sums written as text, worked out without trusting them; numbers as text for the reader."""

from __future__ import annotations

import ast
import math
import operator
from decimal import Decimal
from typing import Any

from covidcxr.errors import InputError

OPERATORS = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv, ast.Pow: operator.pow,
}


def evaluate(expression: str) -> float:
    """Value of an arithmetic expression of numbers: + - * / ** sqrt() and parentheses, nothing else.

    Raises:
        InputError: anything else stands in it, a power above 100, or it has no finite value.
    """
    try:
        if len(expression) > 500:
            raise ValueError("longer than 500 characters")
        value = _evaluate(ast.parse(expression, mode="eval").body)
        if not is_number(value):
            raise ValueError(f"its value is {value!r}")
        return value
    except (SyntaxError, ValueError, ArithmeticError, TypeError, RecursionError, MemoryError) as error:
        raise InputError(f"The expression {str(expression)[:200]!r} can't be worked out: {error}.") from None


def _evaluate(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=value) if is_number(value):
            return value
        case ast.UnaryOp(op=ast.UAdd(), operand=inner):
            return _evaluate(inner)
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_evaluate(inner)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            a, b = _evaluate(left), _evaluate(right)
            if isinstance(op, ast.Pow) and (abs(b) > 100 or abs(a) > 1e6):
                raise ValueError("a power too large")
            return OPERATORS[type(op)](a, b)
        case ast.Call(func=ast.Name(id="sqrt"), args=[inner], keywords=[]):
            return math.sqrt(_evaluate(inner))
    raise ValueError("only numbers, + - * / **, sqrt() and parentheses may stand in it")


def half_unit(value: float) -> float:
    """Half a unit of the last digit that a number is written with: 0.005 for 0.38, 0.5 for 2251."""
    exponent = Decimal(repr(value)).as_tuple().exponent
    return 0.5 * 10.0 ** int(exponent)


def number(value: Any, sign: bool = False) -> str:
    """A number as text: whole numbers whole (with thin spaces from 10,000), others to four significant digits."""
    if isinstance(value, (tuple, list)):
        return ", ".join(number(part) for part in value)
    if not is_number(value):
        return "–" if value is None else str(value)
    if value == int(value) and abs(value) < 1e15:
        text = f"{int(value):,}".replace(",", "\N{THIN SPACE}") if abs(value) >= 10_000 else f"{int(value)}"
    elif abs(value) < 1e-4 or abs(value) >= 1e6:
        text = f"{value:.2g}"
    else:
        text = f"{value:.4g}" if abs(value) < 1000 else f"{value:.1f}"
    return f"+{text}" if sign and value > 0 else text.replace("-", "\N{MINUS SIGN}")


def is_number(value: Any) -> bool:
    """Whether a value is a finite number within the range of a float; True and False are none."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False
