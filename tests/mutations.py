"""Files as accidents and attackers leave them: strategies of hypothesis, each of which damages a sound file."""

import copy
import csv
import io
import json

from hypothesis import strategies as st

OUTSIDE = "outside"  # a folder beside the one that is read, which nothing may reach
HUGE = "9" * 5000  # more digits than Python makes a number of
NAMES = (
    f"../{OUTSIDE}/one.png", f"../../{OUTSIDE}/one.png", "..", ".", "/etc/hostname", "a\\..\\b", "a\0b", "x" * 5000,
    "x" * 5000 + ".nii.gz",
)  # fmt: skip
TEXTS = (
    "", " ", "text", "²", "é", "\ufeff", "\u202e", "\ud800", "nan", "inf", "-1", "0", "1e400", "1e18", HUGE, '"', "a\nb", *NAMES,
)  # fmt: skip
NUMBERS = (-1, 0, 1, 2**31, 2**63, 10**400, 0.5, -0.0, 1e9, 1e18, 1e308, float("nan"), float("inf"), float("-inf"))


def nested(depth: int) -> list:
    inner: list = []
    for _ in range(depth):
        inner = [inner]
    return inner


VALUES = (None, True, False, *NUMBERS, *TEXTS, [], {}, [[]], [None], [{}], {"a": None}, [1, 2, 3], [0.5] * 7, nested(400))


def places(node, found=None) -> list[tuple]:
    """Every (container, key) of a structure of dicts and lists."""
    found = [] if found is None else found
    for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        found.append((node, key))
        places(node[key], found)
    return found


@st.composite
def structures(draw, content):
    """A structure of dicts and lists in which some values are others, gone, or doubled."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        there = places(content)
        if not there:
            break
        node, key = there[draw(st.integers(0, len(there) - 1))]
        action = draw(st.sampled_from(("set", "set", "set", "set", "drop", "wrap", "rename", "repeat")))
        if action == "set":
            node[key] = copy.deepcopy(draw(st.sampled_from(VALUES)))
        elif action == "drop":
            del node[key]
        elif action == "wrap":
            node[key] = [node[key]]
        elif isinstance(node, list):
            node.append(copy.deepcopy(node[key]))
        elif action == "rename":
            node[draw(st.sampled_from(TEXTS))] = node.pop(key)
    return content


@st.composite
def json_files(draw, content) -> bytes:
    """A JSON file whose values, syntax or encoding are damaged."""
    if draw(st.integers(0, 3)):
        text = json.dumps(draw(structures(content)))
        return draw(encoded(text)) if draw(st.integers(0, 9)) == 0 else text.encode()
    text = json.dumps(content)
    kind = draw(st.sampled_from(("bytes", "bytes", "encoding", "deep", "doubled", "number", "top")))
    if kind == "bytes":
        return draw(damaged(text.encode()))
    if kind == "encoding":
        return draw(encoded(text))
    if kind == "deep":
        return draw(st.sampled_from(("[", '{"a":'))).encode() * 100_000
    if kind == "number":
        return text.replace("1", draw(st.sampled_from((HUGE, "1e999", "NaN", "-Infinity", "01"))), 1).encode()
    if kind == "top":
        return json.dumps(draw(st.sampled_from(VALUES))).encode()
    return (text[:-1] + ", " + text[1:]).encode()  # every key of the outermost object twice


@st.composite
def tables(draw, text: str) -> bytes:
    """A CSV table whose cells, rows, quotes or encoding are damaged."""
    rows = [row for row in csv.reader(io.StringIO(text))]
    for _ in range(draw(st.integers(1, 3))):
        number = draw(st.integers(0, len(rows) - 1))
        row = rows[number]
        cell = draw(st.integers(0, max(0, len(row) - 1)))
        action = draw(st.sampled_from(("set",) * 5 + ("drop", "more", "all", "double", "empty", "less", "column", "twice")))
        if action == "set" and row:
            row[cell] = draw(st.sampled_from(TEXTS + VALUES[:1])) or ""
        elif action == "drop" and len(rows) > 1:
            del rows[number]
        elif action == "more":
            row.append("more")
        elif action == "all":
            for other in rows[1:]:
                other.append("")
        elif action == "double":
            rows.insert(number, list(row))
        elif action == "empty":
            rows.insert(number, [])
        elif action == "less" and row:
            del row[-1]
        elif action == "column":
            for other in rows:
                del other[cell : cell + 1]
        elif action == "twice" and rows[0]:
            rows[0][cell % len(rows[0])] = rows[0][0]
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(rows)
    kind = draw(st.sampled_from(("plain",) * 6 + ("encoding", "bytes", "quote", "semicolons", "returns")))
    result = written.getvalue()
    if kind == "encoding":
        return draw(encoded(result))
    if kind == "bytes":
        return draw(damaged(result.encode("utf-8", "replace")))
    if kind == "quote":
        result = result.replace(",", ',"', 1)
    elif kind == "semicolons":
        result = result.replace(",", ";")
    elif kind == "returns":
        result = result.replace("\n", "\r")
    return result.encode("utf-8", "replace")


@st.composite
def encoded(draw, text: str) -> bytes:
    """A text in an encoding, with an end of lines, or with a mark at its beginning that is not expected."""
    kind = draw(st.sampled_from(("utf-8-sig", "utf-16", "utf-32", "latin-1", "cp037", "crlf", "empty", "blank", "zeros")))
    if kind == "crlf":
        return text.replace("\n", "\r\n").encode("utf-8", "replace")
    if kind in ("empty", "blank", "zeros"):
        return {"empty": b"", "blank": b" \n", "zeros": bytes(4096)}[kind]
    return text.encode(kind, "replace")


@st.composite
def damaged(draw, content: bytes) -> bytes:
    """Bytes of which some are lost, others, doubled or added; rather at the beginning, where headers are."""
    result = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        end = min(len(result), draw(st.sampled_from((64, 400, len(content)))))
        place = draw(st.integers(0, max(0, end - 1)))
        few = draw(st.binary(min_size=1, max_size=8))
        action = draw(st.sampled_from(("flip", "flip", "set", "set", "cut", "drop", "add", "double", "zero")))
        if action == "flip" and result:
            result[place] ^= 1 << (few[0] % 8)
        elif action == "set":
            result[place : place + len(few)] = few
        elif action == "cut":
            del result[place:]
        elif action == "drop":
            del result[place : place + len(few)]
        elif action == "add":
            result[place:place] = few
        elif action == "double":
            result[place:place] = result[place : place + 200]
        elif action == "zero":
            result[place : place + 4 * len(few)] = bytes(4 * len(few))
    return bytes(result)
