"""Inputs that are almost right: changes of valid ones that know the format, and so get past the front door.

All take a `random.Random`. It may be Python's own, Hypothesis's (``st.randoms``), or one that reads Atheris's bytes.
"""

from __future__ import annotations

import copy
import json
import pickle
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Link:
    """A symbolic link in a file's place."""

    to: str


@dataclass(frozen=True)
class Other:
    """What is no file in a file's place: a ``folder`` or a ``pipe``."""

    kind: str


Content: TypeAlias = bytes | Link | Other
Files: TypeAlias = dict[str, Content]
"""An input: names, which may have slashes, and contents."""
Change: TypeAlias = Callable[[Random, bytes], bytes]

SCRIPT = "<script>evil()</script>"
"""What must never stand in a page as it is."""
OUTSIDE = "evil"
"""Part of every name that would lie outside of the folders that a parser was given."""


class _Evil:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:  # Any: what pickle takes
        return print, ("a pickle was loaded",)


PICKLE = pickle.dumps(_Evil())
_RAW = {"@digits@": "9" * 5000, "@deep@": "[" * 20_000, "@objects@": '{"a":' * 900 + "1" + "}" * 900, "@huge@": "1e999"}
"""What JSON can say and Python's encoder does not write: for these strings, quotation marks and all."""
ODD: tuple[Any, ...] = (  # Any: JSON values
    *(None, True, False, 0, -1, 1, 2, 7, 0.5, -0.0, 1e-320, 1e308, 2**31, 2**40, 2**62, 2**63, -(2**63), 10**40),
    *(float("nan"), float("inf"), float("-inf"), "", " ", "0", "true", "nan", "LORA", "cpu", "a.b", ".*", "(a+)+$"),
    *("../../../evil", "/tmp/polyrank-evil", "..", ".", "~/evil", "C:\\evil", "a/b", "a\0b", "a\nb", "\x1b[2J"),
    *("é", "\u202e", "\ufeff", "\ud800", "x" * 10_000, SCRIPT, "{{ 7 * 7 }}", "%s%n", "__class__", "[red]x[/red]"),
    *([], {}, [[]], [None], {"": None}, [0], [1, 2, 3], ["a", "a"], {"a": {"b": {}}}, [[[[[[]]]]]], *_RAW),
)


def json_value(random: Random, value: Any) -> Any:  # Any: JSON values
    """A JSON value with one to three of its places changed, removed, renamed, doubled or exchanged."""
    value = copy.deepcopy(value)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        value = _changed(random, value)
    return value


def json_bytes(random: Random, data: bytes) -> bytes:
    """The bytes of a JSON value, or of lines of them, changed as `json_value` has it, and now and then as `raw`."""
    lines = data.split(b"\n") if data.count(b"\n{") else [data]
    at = random.randrange(len(lines))
    try:
        lines[at] = written(json_value(random, json.loads(lines[at])))
    except ValueError:
        lines[at] = raw(random, lines[at])
    if len(lines) > 1 and random.random() < 0.15:
        lines = _shuffled(random, lines)
    data = b"\n".join(lines)
    return raw(random, data) if random.random() < 0.1 else data


def written(value: Any) -> bytes:  # Any: JSON values
    """JSON, with what Python's encoder does not write."""
    text = json.dumps(value)
    for mark, instead in _RAW.items():
        text = text.replace(f'"{mark}"', instead)
    return text.encode()


def safetensors(random: Random, data: bytes) -> bytes:
    """A safetensors file with another header, another length of it, or other bytes."""
    (size,) = struct.unpack("<Q", data[:8])
    header, body = data[8 : 8 + size], data[8 + size :]
    kind = random.randrange(10)
    if kind < 6:
        header = written(_tensors(random, json.loads(header)) if kind < 4 else json_value(random, json.loads(header)))
        size = len(header)
    elif kind == 6:
        size = random.choice((0, 1, size - 1, size + 1, 2**31, 2**62, 2**64 - 1))
    elif kind == 7:
        body = raw(random, body)
    else:
        return raw(random, data)
    return struct.pack("<Q", size) + header + body


def packed(random: Random, data: bytes) -> bytes:
    """A piece of `polyrank.core.codec.pack` with another header, other tensors, or other bytes."""
    size = struct.unpack(">I", data[4:8])[0]
    header, body = data[8 : 8 + size], data[8 + size :]
    kind = random.randrange(10)
    if kind < 6:
        header = json_bytes(random, header)
    elif kind < 8:
        body = safetensors(random, body)
    else:
        return raw(random, data)
    return data[:4] + struct.pack(">I", len(header)) + header + body


def raw(random: Random, data: bytes) -> bytes:
    """Bytes that are cut, flipped, doubled, put elsewhere, or something else altogether."""
    found = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(len(found) + 1)
        end = min(len(found), at + random.choice((1, 2, 8, 64, 1024)))
        kind = random.randrange(8)
        if kind == 0 and at < len(found):
            found[at] ^= 1 << random.randrange(8)
        elif kind == 1:
            found[at:end] = b""
        elif kind == 2:
            found[at:at] = found[at:end]
        elif kind == 3:
            found[at:end] = random.choice((b"\0", b"\xff", b"\x7f", b" ", b'"', b"\n", b"9")) * (end - at)
        elif kind == 4:
            found[at:at] = random.choice(_TOKENS)
        elif kind == 5:
            found = found[:at]
        elif kind == 6 and at < len(found):
            found[at] = random.randrange(256)
    return (
        bytes(found) if random.random() < 0.95 else random.choice((b"", PICKLE, b"PK\x03\x04", b"\x1f\x8b\x08", b"{}"))
    )


_TOKENS = (
    *(
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\0" * 16,
        b"[" * 5000,
        b'"',
        b",",
        b"\t",
        b"\r\n",
        b"\n\n",
        b"../../evil",
        PICKLE,
    ),
    *(b"\xed\xa0\x80", b"9" * 5000, b"NaN", b"-1", b"{", b"}", b"\x1b[2J", SCRIPT.encode(), b"\xe2\x80\xa8", b"1e999"),
)
_TOML = (
    *(b"nan", b"inf", b"-1", b"0", b"1e999", b"true", b'""', b'"auto"', b"[]", b"{}", b"[[1]]", b'"../../evil"'),
    *(b"1979-05-27", b"0xffffffffffffffffffffff", b"9" * 5000, b'"\\u0000"', b"{a = {b = 1}}", b"[" * 5000, b"'''x"),
    *(b'"' + b"x" * 5000 + b'"', b'"<script>evil()</script>"', b'["a", "a"]', b"0.5", b"7", b'"\\u202e"', b"1000000"),
)
_KEYS = (b"[model]", b"[[model]]", b"[a.b.c]", b"model.name = 1", b"x = 1", b"[data.options]", b'"" = 1', b"# \xff")


def toml(random: Random, data: bytes) -> bytes:
    """A TOML file with values, lines or sections that are others."""
    lines = data.split(b"\n")
    for _ in range(random.choice((1, 1, 2, 3))):
        at, kind = random.randrange(len(lines)), random.randrange(6)
        key, equals, _ = lines[at].partition(b"=")
        if kind < 3 and equals:
            lines[at] = key + b"= " + random.choice(_TOML)
        elif kind == 3:
            lines[at] = random.choice(_KEYS)
        elif kind == 4:
            lines = _shuffled(random, lines)
    data = b"\n".join(lines)
    return raw(random, data) if random.random() < 0.1 else data


def table(random: Random, data: bytes) -> bytes:
    """A csv or tsv file with fields, quotation marks, lines or encodings that are others."""
    delimiter = b"\t" if data.count(b"\t") else b","
    lines = data.split(b"\n")
    for _ in range(random.choice((1, 1, 2, 3))):
        at, kind = random.randrange(len(lines)), random.randrange(5)
        fields = lines[at].split(delimiter)
        if kind < 2:
            odd = str(random.choice(ODD)).encode("utf-8", "surrogatepass")
            fields[random.randrange(len(fields))] = random.choice((odd, b'"' + odd, b'"' + odd + b'"'))
        elif kind == 2:
            fields = _shuffled(random, fields)
        elif kind == 3:
            lines = _shuffled(random, lines)
            continue
        lines[at] = delimiter.join(fields)
    data = b"\n".join(lines)
    if random.random() < 0.05:
        return data.decode("utf-8", "replace").encode(random.choice(("utf-16", "utf-32", "cp500")), "replace")
    return raw(random, data) if random.random() < 0.1 else data


def files(random: Random, valid: Mapping[str, bytes], how: Mapping[str, Change]) -> Files:
    """A folder of which one or two files are changed, missing, or no files.

    Args:
        random: what decides.
        valid: the folder as it should be.
        how: end of a name -> how such a file is changed; others by `raw`.
    """
    found: Files = dict(valid)
    for _ in range(random.choice((1, 1, 1, 2))):
        name = random.choice(sorted(name for name in valid if found.get(name) is valid[name]))
        content, kind = found[name], random.randrange(40)
        if kind == 0:
            del found[name]
        elif kind == 1:
            found[name] = random.choice((Other("folder"), Other("pipe")))
        elif kind == 2:
            found[name] = Link(random.choice(("/dev/zero", "/etc/passwd", name, "..", "nowhere", "../../evil")))
        elif kind == 3:
            found[name] = PICKLE
        elif kind == 4:
            found[random.choice(("adapter_model.bin", "pytorch_model.bin", f".{name}.writing", "x\n\x1b[2J"))] = PICKLE
        elif isinstance(content, bytes):
            change = next((change for end, change in how.items() if name.endswith(end)), raw)
            found[name] = change(random, content)
        if len(valid) == 1:
            break
    return found


def _tensors(random: Random, header: dict[str, Any]) -> dict[str, Any]:  # Any: JSON values
    """Another dtype, shape, place or name of one tensor."""
    name = random.choice(sorted(header))
    about = header[name]
    kind = random.randrange(5)
    if kind == 0:
        about["dtype"] = random.choice(("F64", "F16", "BF16", "I64", "BOOL", "F8_E4M3", "U8", "F4", "C64", "", 3))
    elif kind == 1 and about.get("shape"):
        at = random.randrange(len(about["shape"]))
        about["shape"][at] = random.choice((0, 1, 2, -1, 2**31, 2**63, 0.5, "2", None))
    elif kind == 2:
        about["data_offsets"] = [random.choice((0, 4, -4, 2**40, 2**64)), random.choice((0, 8, 2**40, 2**64))]
    elif kind == 3:
        odd = (str(random.choice(ODD)), f"{name}/../evil", name.upper(), name.replace("lora_A", "lora_B"), f"{name}.x")
        header[random.choice(odd)[:500]] = header.pop(name)
    else:
        return json_value(random, header)
    return header


def _changed(random: Random, value: Any) -> Any:  # Any: JSON values
    places = [
        (inside, key)
        for inside in _inside(value)
        for key in (inside if isinstance(inside, dict) else range(len(inside)))
    ]
    if not places or random.random() < 0.03:
        return copy.deepcopy(random.choice(ODD))
    inside, key = random.choice(places)
    kind = random.randrange(10)
    if kind == 0:
        del inside[key]
    elif kind == 1 and isinstance(inside, dict):
        inside[str(random.choice(ODD))[:300]] = inside.pop(key)
    elif kind == 1:
        inside.insert(key, copy.deepcopy(inside[key]))
    elif kind == 2:
        other, its = random.choice(places)
        inside[key], other[its] = copy.deepcopy(other[its]), copy.deepcopy(inside[key])
    elif kind < 6 and isinstance(inside[key], int | float):
        inside[key] = random.choice(_near(inside[key]))
    else:
        inside[key] = copy.deepcopy(random.choice(ODD))  # it may be changed next
    return value


def _near(number: float) -> Sequence[Any]:  # Any: JSON values
    return (
        number + 1,
        number - 1,
        -number,
        number * 2,
        number * 1.5,
        float(number),
        str(number),
        [number],
        number * 10**9,
    )


def _inside(value: Any) -> list[Any]:  # Any: JSON values
    """All lists and objects of a JSON value that hold something."""
    if not isinstance(value, dict | list):
        return []
    below = value.values() if isinstance(value, dict) else value
    return ([value] if value else []) + [one for each in below for one in _inside(each)]


def _shuffled(random: Random, parts: Sequence[bytes]) -> list[bytes]:
    """One of them twice, one of them gone, or two of them exchanged."""
    found, kind = list(parts), random.randrange(3)
    one, other = random.randrange(len(found)), random.randrange(len(found))
    if kind == 0:
        found.insert(one, found[other])
    elif kind == 1 and len(found) > 1:
        del found[one]
    else:
        found[one], found[other] = found[other], found[one]
    return found
