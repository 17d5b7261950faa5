"""Settings as words of a command, in Hydra's grammar."""

import re
from pathlib import Path

from modmeta.errors import UserError


def is_setting(word: str) -> bool:
    """Whether a word is a setting, such as `seed=1` or `~logger.wandb`, and not the name of a file.

    A word that looks like a setting is a file if that file exists; any name is one with `./` before it.
    """
    looks = re.match(r"~|\+{0,2}[\w/@.$-]+=", word) is not None and not word.startswith(("/", "./", "../"))
    return looks and not Path(word).is_file()


def setting(key: str, value: str) -> str:
    """`key='value'`, of which Hydra takes the value as it is, whatever letters it has.

    Raises:
        UserError: it holds `${`, which stands for another setting wherever it is read.
    """
    if "${" in value:
        raise UserError(f"{value}: a name that holds ${{ cannot be used; rename it")
    # Within quotes a backslash stands for itself, but where backslashes precede a quote.
    quoted = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + (r"\'" if found[2] else ""), value)
    return f"{key}='{quoted}'"


def with_new_names(word: str) -> str:
    """A word with the names of this version: what is `method` was `bouncegrad`, and its group `method@bouncegrad`."""
    word = re.sub(r"^(~|\+{0,2})method@bouncegrad(?=[=@]|$)", r"\1method", word)
    word = re.sub(r"^(~|\+{0,2})((?:[\w/]+@)?)bouncegrad(?=[.=]|$)", r"\1\2method", word)
    return with_new_references(word)


def with_new_references(text: str) -> str:
    """A text whose references to `bouncegrad`, such as `${bouncegrad.seed}`, are to `method`."""
    return re.sub(r"\$\{((?:[\w.]+:)?)bouncegrad(?=[.,}])", r"${\1method", text)
