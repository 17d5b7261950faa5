"""Plain data out of JSON and YAML files of anyone: bounded, and nothing but dictionaries, lists, text, numbers, null.

Nothing in a file is resolved, constructed or executed: `${...}` stays text, tags and aliases of YAML are refused.
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

JSON_BYTES = 16 << 20  # of a JSON file: curves of some twenty thousand epochs
YAML_BYTES = 1 << 20  # of a YAML file: a configuration has some ten thousand
TEXT_BYTES = 64 << 20  # of a table of comma-separated values that a run writes
DEPTH = 64  # of dictionaries and lists in one another
NODES = 1_000_000  # dictionaries, lists and values in all
INTEGER = 2**63  # what whole numbers stay below

# How YAML writes a value without quotes; what no pattern fits is text. The same as OmegaConf's, without sexagesimals.
NULL = re.compile(r"~|null|Null|NULL|")
TRUE = re.compile(r"yes|Yes|YES|true|True|TRUE|on|On|ON")
FALSE = re.compile(r"no|No|NO|false|False|FALSE|off|Off|OFF")
WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)")
REAL = re.compile(r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?")
NOT_FINITE = re.compile(r"([-+]?)\.(inf|Inf|INF|nan|NaN|NAN)")


def read_json(path: Path) -> Any:
    """Content of a JSON file; `NaN` and `Infinity` are numbers, as Python writes them.

    Raises:
        UserError: it is no regular file, cannot be read, is not JSON, too large, too deep, or holds what is not plain.
    """
    text = read_text(path, JSON_BYTES)
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise UserError(f"{path} holds values more than {DEPTH} deep in one another") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    except ValueError as error:  # Python converts no more than some thousand digits
        raise UserError(f"{path} holds a whole number that is too large, beyond 2^63") from error
    return check_plain(content, path)


def read_yaml(path: Path) -> Any:
    """Content of a YAML file of one document; null where it is empty.

    Raises:
        UserError: it is no regular file, cannot be read, is not YAML, too large, too deep, holds a tag, an alias or
            several documents, or what is not plain.
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
    """The content itself, if it is plain: dictionaries with keys of text, lists, text, numbers, booleans, null.

    Args:
        content: whatever a file held.
        where: the file, for messages.

    Raises:
        UserError: something else is in it, text that is not Unicode or a whole number of 2^63 or more, or it is too
            deep or too large.
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
                        raise UserError(f"{where} holds a key that is not text but {type(key).__name__}")
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
    raise UserError(f"{where} holds values more than {DEPTH} deep in one another")


def _check_value(value: Any, where: object) -> None:
    if type(value) is str:
        _check_text(value, where)
    elif type(value) is int:
        if not -INTEGER < value < INTEGER:
            raise UserError(f"{where} holds a whole number that is too large, beyond 2^63")
    elif value is not None and type(value) not in (bool, float):
        raise UserError(f"{where} holds a value that is not plain but {type(value).__name__}")


def _check_text(text: str, where: object) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where} holds text that is not Unicode") from error


def read_text(path: Path, limit: int) -> str:
    """A regular file as text, of up to `limit` bytes; pipes and devices are not waited for.

    Raises:
        UserError: it is no regular file, cannot be read, is longer, or not UTF-8.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise UserError(f"{path} is not a file")
            content = file.read(limit + 1)
    except IsADirectoryError as error:
        raise UserError(f"{path} is not a file but a directory") from error
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > limit:
        raise UserError(f"{path} has more than {limit >> 20} MiB, too many for results or settings of a run")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8 (byte {error.start})") from error


def _problem(error: yaml.YAMLError) -> str:
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it is damaged"
    return str(problem).splitlines()[0]


def _built(events: Iterator[Any], path: Path) -> Any:
    """The document of a stream of YAML's events, without recursion."""
    out: list[Any] = []
    open_parts: list[Any] = [out]
    keys: list[Any] = []  # of every open dictionary, the key that waits for its value
    waiting = object()
    for count, event in enumerate(events):
        if count > 2 * NODES:
            raise UserError(f"{path} holds more than {NODES:,} values")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise UserError(f"{path} holds an anchor or alias of YAML; write the value itself, line {_line(event)}")
        if getattr(event, "tag", None) is not None:
            raise UserError(f"{path} holds a tag of YAML, {str(event.tag)[:60]!r}, line {_line(event)}; take it out")
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
                raise UserError(f"{path} holds a key that is not text, line {_line(event)}; put it in quotes")
            if value in part:
                raise UserError(f"{path} holds a key twice, line {_line(event)}; take one out")
            keys[-1] = value
        else:
            part[keys[-1]], keys[-1] = value, waiting
        if isinstance(value, dict | list):
            open_parts.append(value)
            keys += [waiting] if isinstance(value, dict) else []
            if len(open_parts) > DEPTH + 1:
                raise UserError(f"{path} holds values more than {DEPTH} deep in one another")
    if len(out) > 1:
        raise UserError(f"{path} holds several documents of YAML")
    return out[0] if out else None


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _value(text: str, path: Path) -> str | int | float | bool | None:
    """A value that is written without quotes."""
    if NULL.fullmatch(text):
        return None
    if TRUE.fullmatch(text) or FALSE.fullmatch(text):
        return TRUE.fullmatch(text) is not None
    if len(text) > 400:  # longer than any number that is written in full
        return text
    if WHOLE.fullmatch(text):
        return int(text.replace("_", ""))
    if REAL.fullmatch(text):
        return float(text.replace("_", ""))
    special = NOT_FINITE.fullmatch(text)
    return float(special[1] + special[2]) if special else text
