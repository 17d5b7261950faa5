"""Safe parsing of untrusted JSON and YAML: bounded size; only dictionaries, lists, text, numbers, booleans and null.

Nothing is resolved, constructed or executed: `${...}` stays text, YAML tags and aliases are rejected.
"""

import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from modmeta.errors import UserError

JSON_BYTES = 16 << 20  # largest JSON file: curves of about twenty thousand epochs
YAML_BYTES = 1 << 20  # largest YAML file: a configuration has about ten thousand bytes
TEXT_BYTES = 64 << 20  # largest CSV file written by a run
DEPTH = 64  # nesting levels of dictionaries and lists
NODES = 1_000_000  # dictionaries, lists and values in total
INTEGER = 2**63  # bound of the magnitude of integers

# Patterns of unquoted YAML values; values that match none are text. As in OmegaConf, without sexagesimal numbers.
NULL = re.compile(r"~|null|Null|NULL|")
TRUE = re.compile(r"yes|Yes|YES|true|True|TRUE|on|On|ON")
FALSE = re.compile(r"no|No|NO|false|False|FALSE|off|Off|OFF")
WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)")
REAL = re.compile(r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?")
NOT_FINITE = re.compile(r"([-+]?)\.(inf|Inf|INF|nan|NaN|NAN)")


def read_json(path: Path) -> Any:
    """Content of a JSON file. `NaN` and `Infinity` are accepted as numbers, as Python writes them.

    Raises:
        UserError: the file cannot be read, is not JSON, is too large or too deeply nested, or fails `check_plain`.
    """
    text = read_text(path, JSON_BYTES)
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise UserError(f"{path} is nested more than {DEPTH} levels deep") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    except ValueError as error:  # Python limits the number of digits of an integer
        raise UserError(f"{path} holds an integer beyond 2^63") from error
    return check_plain(content, path)


def read_yaml(path: Path) -> Any:
    """Content of a YAML file with one document; None for an empty file.

    Raises:
        UserError: the file cannot be read, is not YAML, is too large or too deeply nested, holds a tag, an anchor or
            several documents, or fails `check_plain`.
    """
    text = read_text(path, YAML_BYTES)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        content = _built(yaml.parse(text, Loader=loader), path)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise UserError(f"{path} cannot be read as YAML: {_problem(error)}{where}") from error
    return check_plain(content, path)


def check_plain(content: Any, where: object) -> Any:
    """Returns the content if it consists of dictionaries with text keys, lists, text, numbers, booleans and None.

    Args:
        content: content of a file.
        where: the file, for error messages.

    Raises:
        UserError: the content holds other types, text that is not valid Unicode or an integer beyond 2^63, or is too
            deeply nested or too large.
    """
    level, count = [content], 0
    for _ in range(DEPTH + 1):
        count += len(level)
        if count > NODES:
            raise UserError(f"{where} holds more than {NODES:,} values")
        below: list[Any] = []
        for value in level:
            if type(value) is dict:
                for key in value:
                    if type(key) is not str:
                        raise UserError(f"{where} holds a key of type {type(key).__name__}; keys must be text")
                    _check_text(key, where)
                below += value.values()
            elif type(value) is list:
                below += value
            else:
                _check_value(value, where)
            if len(below) > NODES:
                raise UserError(f"{where} holds more than {NODES:,} values")
        if not below:
            return content
        level = below
    raise UserError(f"{where} is nested more than {DEPTH} levels deep")


def _check_value(value: Any, where: object) -> None:
    if type(value) is str:
        _check_text(value, where)
    elif type(value) is int:
        if not -INTEGER < value < INTEGER:
            raise UserError(f"{where} holds an integer beyond 2^63")
    elif value is not None and type(value) not in (bool, float):
        raise UserError(
            f"{where} holds a value of type {type(value).__name__}; values must be text, numbers, booleans or null"
        )


def _check_text(text: str, where: object) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where} holds text that is not valid Unicode") from error


def read_text(path: Path, limit: int) -> str:
    """Text of a regular file of up to `limit` bytes. Does not block on pipes and devices.

    Raises:
        UserError: the file is not regular, cannot be read, is larger than `limit`, or is not UTF-8.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise UserError(f"{path} is not a regular file")
            content = file.read(limit + 1)
    except IsADirectoryError as error:
        raise UserError(f"{path} is a directory; a file is needed") from error
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > limit:
        raise UserError(f"{path} has more than {limit >> 20} MiB, too large for results or settings of a run")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start})") from error


def _problem(error: yaml.YAMLError) -> str:
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it is damaged"
    return str(problem).splitlines()[0]


def _built(events: Iterator[Any], path: Path) -> Any:
    """Builds the document from YAML parser events, without recursion."""
    out: list[Any] = []
    open_parts: list[Any] = [out]
    keys: list[Any] = []  # for each open dictionary, the key whose value comes next
    waiting = object()
    for count, event in enumerate(events):
        if count > 2 * NODES:
            raise UserError(f"{path} holds more than {NODES:,} values")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise UserError(f"{path}, line {_line(event)}: YAML anchors and aliases are not allowed; write the value")
        if getattr(event, "tag", None) is not None:
            raise UserError(
                f"{path}, line {_line(event)}: the YAML tag {str(event.tag)[:60]!r} is not allowed; remove it"
            )
        if isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            if isinstance(open_parts.pop(), dict):
                keys.pop()
            continue
        if isinstance(event, yaml.ScalarEvent):
            value: Any = event.value if event.style else _value(event.value, path)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            value = {} if isinstance(event, yaml.MappingStartEvent) else []
        else:
            continue
        part = open_parts[-1]
        if isinstance(part, list):
            part.append(value)
        elif keys[-1] is waiting:
            if type(value) is not str:
                raise UserError(f"{path}, line {_line(event)}: the key is not text; quote it")
            if value in part:
                raise UserError(f"{path}, line {_line(event)}: the key is repeated; remove one")
            keys[-1] = value
        else:
            part[keys[-1]], keys[-1] = value, waiting
        if isinstance(value, dict | list):
            open_parts.append(value)
            keys += [waiting] if isinstance(value, dict) else []
            if len(open_parts) > DEPTH + 1:
                raise UserError(f"{path} is nested more than {DEPTH} levels deep")
    if len(out) > 1:
        raise UserError(f"{path} holds several YAML documents; keep one")
    return out[0] if out else None


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _value(text: str, path: Path) -> str | int | float | bool | None:
    """Value of an unquoted scalar."""
    if NULL.fullmatch(text):
        return None
    if TRUE.fullmatch(text) or FALSE.fullmatch(text):
        return TRUE.fullmatch(text) is not None
    if len(text) > 400:  # longer than any number written in full
        return text
    if WHOLE.fullmatch(text):
        return int(text.replace("_", ""))
    if REAL.fullmatch(text):
        return float(text.replace("_", ""))
    special = NOT_FINITE.fullmatch(text)
    return float(special[1] + special[2]) if special else text
