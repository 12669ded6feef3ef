"""Where a component comes from, as a value: equal specs are one loaded object."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, JsonValue, PrivateAttr, ValidationError, field_validator

from ..graph.errors import ConfigError, LoadError
from ..registry import UnknownName, codecs, did_you_mean, native, resolve
from .quantization.config import read_quantization
from .storage.files import CONFIGS, read_json
from .storage.hub import Access, is_revision
from .storage.location import Location, fetch_small_files, location_of

PUBLISHED = ("pretrained_model_name_or_path", "revision", "subfolder", "type_hint", "variant")
"""The keys of a loading spec in a published `modular_model_index.json`."""

_AUTO = ("AutoModel", "AutoModelForTextEncoding", "AutoTokenizer")
"""Hints that leave it to the config of the component what it is."""

_VARIANT = re.compile(r"\w[\w-]*")
_DTYPES = {"fp16": "float16", "half": "float16", "bf16": "bfloat16", "fp32": "float32", "float": "float32"}


def dtype_name(dtype: object) -> str | None:
    """The name of a torch dtype, given as one ("float16", "torch.float16", "fp16") or as a `torch.dtype`.

    >>> dtype_name(torch.bfloat16), dtype_name("fp16"), dtype_name(None)
    ('bfloat16', 'float16', None)
    """
    if dtype is None:
        return None
    name = str(dtype).removeprefix("torch.")
    name = _DTYPES.get(name, name)
    if not isinstance(getattr(torch, name, None), torch.dtype):
        raise ConfigError(f"dtype: came {dtype!r}, wanted a floating type of torch such as 'float32' or 'float16'.")
    return name


class ComponentSpec(BaseModel):
    """Where a component comes from: class, repo or folder, subfolder, revision, variant, dtype; or a config inline.

    Equal specs have equal `key`s, and a manager loads one object for them. A path that is an existing folder is kept
    in full, so that `"emoji"` and `"./emoji/"` are one component. A `config` stands in place of a config file;
    without a path the component is made from it alone (a scheduler or guider saved inline).
    Raises pydantic's ValidationError (a ValueError) for unfit fields; `from_json` raises ConfigError.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    type_hint: tuple[str, str] | None = None
    pretrained_model_name_or_path: str | None = None
    subfolder: str = ""
    revision: str | None = None
    variant: str | None = None
    dtype: str | None = None
    quantization: JsonValue = None
    config: dict[str, JsonValue] | None = None

    @field_validator("type_hint", mode="before")
    @classmethod
    def _no_hint(cls, value: object) -> object:
        return None if value in ([None, None], (None, None)) else value  # published for "no class known"

    @field_validator("pretrained_model_name_or_path", mode="before")
    @classmethod
    def _whole_path(cls, value: object) -> object:
        if isinstance(value, (str, os.PathLike)):
            text = os.fspath(value)
            folder = os.path.expanduser(text)
            return os.path.abspath(folder) if os.path.exists(folder) else text
        return value

    @field_validator("subfolder", mode="before")
    @classmethod
    def _inside(cls, value: object) -> object:
        if value is None:  # transformers and older indexes write null for "none"
            return ""
        if isinstance(value, str):
            path = PurePosixPath(value)
            if path.is_absolute() or ".." in path.parts or {*"\\:\0"} & {*value}:
                raise ValueError(
                    f"came {value!r}, which leads out of the folder; wanted a name inside it such as 'unet'"
                )
            return "" if value in (".", "./") else str(path) if value else ""
        return value

    @field_validator("revision")
    @classmethod
    def _a_revision(cls, value: str | None) -> str | None:
        if value is not None and not is_revision(value):
            raise ValueError(f"came {value!r}; wanted a branch, tag or commit such as 'main' or 'refs/pr/1'")
        return value

    @field_validator("variant")
    @classmethod
    def _a_variant(cls, value: str | None) -> str | None:
        if value is not None and _VARIANT.fullmatch(value) is None:
            raise ValueError(f"came {value!r}; wanted a part of a file name such as 'fp16'")
        return value

    @field_validator("dtype", mode="before")
    @classmethod
    def _dtype_name(cls, value: object) -> object:
        return dtype_name(value)

    @field_validator("quantization", mode="before")
    @classmethod
    def _as_published(cls, value: object) -> object:
        found = read_quantization(value)
        return None if found is None else found.to_json()

    @field_validator("config")
    @classmethod
    def _own_copy(cls, value: dict[str, JsonValue] | None) -> dict[str, JsonValue] | None:
        return None if value is None else json.loads(json.dumps(value))

    _access: Access = PrivateAttr(default_factory=Access)

    @property
    def access(self) -> Access:
        """How its files may be reached: no part of its key."""
        return self._access

    def with_access(self, access: Access) -> "ComponentSpec":
        """The same spec, whose files are reached in that way."""
        new = self.model_copy()
        new._access = access
        return new

    @property
    def load_id(self) -> str:
        """`path|subfolder|variant|revision` with "null" for none: the id that diffusers writes on loaded objects."""
        parts = (self.pretrained_model_name_or_path, self.subfolder, self.variant, self.revision)
        return "|".join("null" if part is None else part for part in parts)

    @property
    def key(self) -> str:
        """The loading key: `load_id`, then dtype, class, and digests of config and quantization where they are set."""
        hint = ".".join(self.type_hint) if self.type_hint else "null"
        parts = [self.load_id, self.dtype or "null", hint]
        for name, data in (("config", self.config), ("quantization", self.quantization)):
            if data is not None:
                text = json.dumps(data, sort_keys=True, separators=(",", ":"))
                parts.append(f"{name}:{hashlib.sha256(text.encode()).hexdigest()[:16]}")
        return "|".join(parts)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ComponentSpec) and self.key == other.key

    def using(self, **changes: Any) -> "ComponentSpec":  # a value per field, checked by the model
        """The same spec with some fields changed, checked like a new one."""
        return ComponentSpec.model_validate({**self.model_dump(), **changes}).with_access(self._access)

    @property
    def loadable(self) -> bool:
        """Whether it says where the component comes from: a path or an inline config."""
        return self.pretrained_model_name_or_path is not None or self.config is not None

    @property
    def type(self) -> Any:  # a class of ours or of transformers; nothing common but how it is loaded
        """The class of the hint: our own where we have one, else the library's. LoadError where there is none."""
        if self.type_hint is None:
            raise LoadError(f"{self}: it names no class. Give type_hint=('diffusers', 'AutoencoderKL') or the like.")
        try:
            return class_of(self._own_hint() if self.type_hint[1] in _AUTO else self.type_hint)
        except UnknownName as error:
            raise LoadError(f"{self}: type_hint: {error}") from error

    def _own_hint(self) -> tuple[str, str]:
        """The class that the component's own config names, for a hint that names none."""
        config = self.read_config()
        if isinstance(name := config.get("_class_name"), str):
            return "diffusers", name
        match config.get("architectures"), config.get("tokenizer_class"):
            case [str() as name], _:
                return "transformers", name
            case _, str() as name:
                return "transformers", name
            case _:
                pass
        raise LoadError(f"{self}: the hint is {self.type_hint}, and its config names no class. Give type_hint=.")

    @property
    def location(self) -> Location:
        """The folder or repo that it comes from. LoadError where there is none."""
        if self.pretrained_model_name_or_path is None:
            raise LoadError(f"{self}: it names no folder. Give pretrained_model_name_or_path, or bind an object.")
        return location_of(self.pretrained_model_name_or_path, self.revision, self._access)

    @property
    def file(self) -> Path | None:
        """The single file that it is a part of (`subfolder` then names the part); None for what comes in a folder."""
        path = Path(self.pretrained_model_name_or_path or "").expanduser()
        return path if path.is_file() else None

    @property
    def folder(self) -> Path:
        """The local folder with the component's files; of a repo, all but weights are fetched. LoadError if none."""
        return fetch_small_files(self.location, self.subfolder)

    def read_config(self) -> dict[str, JsonValue]:
        """The component's own config: the inline one, else the JSON file in its folder. Never opens weights."""
        if self.config is not None:
            return dict(self.config)
        folder = self.folder
        names = (*CONFIGS, "tokenizer_config.json")
        return read_json(folder / next((n for n in names if (folder / n).is_file()), CONFIGS[0]))

    def bindable(self) -> Any:  # a Handle, which knows this class
        """A handle of the process's own manager: what a graph binds for this spec."""
        return codecs["handle"](self)

    def to_json(self) -> dict[str, JsonValue]:
        """The published five keys, and of ours (dtype, quantization, config) those that are set.

        `from_json` is the inverse.
        """
        data: dict[str, JsonValue] = {name: getattr(self, name) for name in PUBLISHED}
        data["type_hint"] = list(self.type_hint or (None, None))
        ours: dict[str, JsonValue] = {"dtype": self.dtype, "quantization": self.quantization, "config": self.config}
        return data | {name: value for name, value in ours.items() if value is not None}

    @classmethod
    def from_json(cls, data: Mapping[str, JsonValue]) -> "ComponentSpec":
        """A spec from `to_json` or an index file; the legacy key `repo` stands for the path. ConfigError if unfit."""
        given = dict(data)
        repo = given.pop("repo", None)
        if given.get("pretrained_model_name_or_path") is None and repo is not None:
            given["pretrained_model_name_or_path"] = repo
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise ConfigError("; ".join(explain(error))) from error

    def __str__(self) -> str:
        where = self.pretrained_model_name_or_path or ("inline config" if self.config is not None else "no path")
        name = self.type_hint[1] if self.type_hint else "component"
        return f"{name} ({where}{'/' if self.subfolder else ''}{self.subfolder})"


def explain(error: ValidationError) -> list[str]:
    """One line a problem: `key: what came, what was wanted`."""
    lines: list[str] = []
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = f"no such key. {did_you_mean(place, ComponentSpec.model_fields)}"
        elif problem["type"] != "value_error":
            message = f"came {problem['input']!r}. {message}"
        lines.append(message if message.startswith(f"{place}:") else f"{place}: {message}")
    return lines


def class_of(hint: tuple[str, str]) -> Any:
    """The class for a published hint. Ours where we read the same files with a lighter class, else `resolve`'s."""
    if (path := native.get(hint)) is not None:
        module, _, name = path.partition(":")
        return getattr(import_module(module), name)
    return resolve(hint)
