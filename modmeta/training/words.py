"""Settings on the command line, in Hydra's grammar."""

import re

from modmeta.errors import UserError
from modmeta.io import expanded

PATHS = ("data.path", "data.reading.relations", "ckpt_path", "resume", "results", "data_dir", "hydra.run.dir",
         "hydra.sweep.dir")  # fmt: skip


def is_setting(word: str) -> bool:
    """Whether an argument is a setting, such as `seed=1` or `~logger.wandb`, rather than a file.

    An argument that looks like a setting is a file if that file exists. With `./` in front, any name is a file.
    """
    looks = re.match(r"~|\+{0,2}[\w/@.$-]+=", word) is not None and not word.startswith(("/", "./", "../", "~/"))
    return looks and not expanded(word).exists()


def with_plain_path(word: str) -> str:
    """A setting of a path, quoted where Hydra's grammar would not take the name as it is: blanks, brackets, `=`, `ö`.

    `~` is the home directory. A list of paths for a sweep is unchanged, unless a file has its name.
    """
    key, equals, value = word.partition("=")
    if key.lstrip("+") not in PATHS or not equals or not value or value[0] in "'\"" or "${" in value:
        return word
    path = expanded(value)
    if not path.exists():
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from hydra.errors import HydraException

        try:
            OverridesParser.create().parse_override(word)
            return word if value[0] != "~" else setting(key, str(path))
        except HydraException:
            pass
    return setting(key, str(path))


def setting(key: str, value: str) -> str:
    """A setting `key='value'`, quoted so that Hydra takes any value literally.

    Raises:
        UserError: the value contains `${`, which Hydra would resolve even within quotes.
    """
    if "${" in value:
        raise UserError(f"{value}: Hydra cannot use a name that contains ${{; rename the file or directory")
    # Within quotes a backslash is literal, except before a quote.
    quoted = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + (r"\'" if found[2] else ""), value)
    return f"{key}='{quoted}'"


def with_new_names(word: str) -> str:
    """Translates a setting of an earlier version: key `bouncegrad` and group `method@bouncegrad` became `method`."""
    word = re.sub(r"^(~|\+{0,2})method@bouncegrad(?=[=@]|$)", r"\1method", word)
    word = re.sub(r"^(~|\+{0,2})((?:[\w/]+@)?)bouncegrad(?=[.=]|$)", r"\1\2method", word)
    return with_new_references(word)


def with_new_references(text: str) -> str:
    """A text whose references to `bouncegrad`, such as `${bouncegrad.seed}`, are to `method`."""
    return re.sub(r"\$\{((?:[\w.]+:)?)bouncegrad(?=[.,}])", r"${\1method", text)
