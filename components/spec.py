"""Where a component comes from, as a value: equal specs are one loaded object."""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import FrozenInstanceError
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast

import torch
from pydantic import BaseModel, ConfigDict, JsonValue, PrivateAttr, ValidationError, ValidationInfo, field_validator

from ..graph.errors import ConfigError, LoadError
from ..graph.files.inside import leads_out
from ..registry import UnknownName, codecs, did_you_mean, native, printable, resolve
from .quantization.config import read_quantization
from .storage.files import CONFIGS, read_json
from .storage.hub import Access, is_revision
from .storage.location import Location, fetch_small_files, open_source

PUBLISHED = ("pretrained_model_name_or_path", "revision", "subfolder", "type_hint", "variant")
"""The keys of a loading spec in a published `modular_model_index.json`."""

AUTO_CLASSES = ("AutoModel", "AutoModelForTextEncoding", "AutoTokenizer")
"""Classes in hints that stand for any class: the component's own config names the real one."""

_KEEP_PATH = "keep the path"
"""The context of a validation that does not look for the path in the working folder."""
_VARIANT = re.compile(r"\w[\w-]*")
_DTYPES = {"fp16": "float16", "half": "float16", "bf16": "bfloat16", "fp32": "float32", "float": "float32"}


def dtype_name(dtype: object, what: Literal["dtype", "storage"] = "dtype") -> str | None:
    """The name of a floating torch dtype that is passed as a name ("float16", "torch.float16", "fp16") or as a
    `torch.dtype`. None for None.

    what: the argument. Layers compute in a "dtype", and weights may be kept in a "storage" of 8 bits.

    Raises:
        ConfigError: anything else.

    >>> dtype_name(torch.bfloat16), dtype_name("fp16"), dtype_name(None)
    ('bfloat16', 'float16', None)
    """
    if dtype is None:
        return None
    name = str(dtype).removeprefix("torch.")
    name = _DTYPES.get(name, name)
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        way = " For weights in few bits write quantization={'unet': 'nf4'}." if isinstance(found, torch.dtype) else ""
        such = "'float8_e4m3fn' or 'bfloat16'" if what == "storage" else "'float32' or 'float16'"
        raise ConfigError(f"{what}: needs a floating dtype of torch such as {such}. Got {dtype!r}.{way}")
    if what == "dtype" and found.itemsize == 1:
        way = f"manager.offload(storage={name!r})"
        raise ConfigError(f"dtype: layers do not compute in {name}. Write {way}, which keeps weights in it.")
    return name


class ComponentSpec(BaseModel):
    """Where a component comes from, and how it is loaded.

    Equal specs have equal `key`s, and a manager loads one object for them.

    type_hint: library and class, as index files name them. pretrained_model_name_or_path: a repo of the Hub, a folder,
    or a single file; an existing path is made absolute, so that "emoji" and "./emoji/" are one component. subfolder:
    the component's folder there, or its part of a single file. revision: a branch, tag or commit. variant: of the
    weight files, such as "fp16". dtype: of the loaded weights. quantization: a published quantization config or its
    name. config: replaces the component's config file; without a path the component is made from it alone, as a
    scheduler that is saved inline.

    Raises:
        ValidationError: pydantic's, a ValueError, for fields that do not fit. `from_json` raises ConfigError.
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
        return None if value in ([None, None], (None, None)) else value  # published for an unknown class

    @field_validator("pretrained_model_name_or_path", mode="before")
    @classmethod
    def _whole_path(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, (str, os.PathLike)) and info.context != _KEEP_PATH:
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
            if leads_out(value):
                raise ValueError(
                    f"needs a name inside the folder such as 'unet'. Got {value!r}, which leads out of the folder"
                )
            return "" if value in (".", "./") else str(PurePosixPath(value)) if value else ""
        return value

    @field_validator("revision")
    @classmethod
    def _a_revision(cls, value: str | None) -> str | None:
        if value is not None and not is_revision(value):
            raise ValueError(f"needs a branch, tag or commit such as 'main' or 'refs/pr/1'. Got {value!r}")
        return value

    @field_validator("variant")
    @classmethod
    def _a_variant(cls, value: str | None) -> str | None:
        if value is not None and _VARIANT.fullmatch(value) is None:
            raise ValueError(f"needs a part of a file name such as 'fp16'. Got {value!r}")
        return value

    @field_validator("dtype", mode="before")
    @classmethod
    def _dtype_name(cls, value: object) -> object:
        return dtype_name(value)

    @field_validator("quantization", mode="before")
    @classmethod
    def _as_published(cls, value: object) -> object:
        config = read_quantization(value)
        return None if config is None else config.to_json()

    @field_validator("config", mode="before")
    @classmethod
    def _lists(cls, value: object) -> object:
        return _with_lists(value)

    @field_validator("config")
    @classmethod
    def _own_copy(cls, value: dict[str, JsonValue] | None) -> dict[str, JsonValue] | None:
        return None if value is None else json.loads(json.dumps(value))

    _access: Access = PrivateAttr(default_factory=Access)

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_"):
            raise FrozenInstanceError(f"A spec does not change. Make another one: spec = spec.using({name}=…).")
        super().__setattr__(name, value)

    @property
    def access(self) -> Access:
        """The rules for fetching and reading its files. They are no part of the key."""
        return self._access

    def with_access(self, access: Access) -> "ComponentSpec":
        """The same spec with other rules for fetching and reading its files."""
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
        """The text by which a manager shares objects: `load_id`, dtype, class, digests of config and quantization."""
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

    def using(self, **changes: Any) -> "ComponentSpec":  # a value for each field, validated by the model
        """The same spec with some fields changed. ConfigError for fields that do not fit."""
        context = None if "pretrained_model_name_or_path" in changes else _KEEP_PATH
        try:
            made = ComponentSpec.model_validate({**self.model_dump(), **changes}, context=context)
        except ValidationError as error:
            raise ConfigError("; ".join(explain(error))) from error
        return made.with_access(self._access)

    @property
    def loadable(self) -> bool:
        """Whether it has a path or an inline config to load from."""
        return self.pretrained_model_name_or_path is not None or self.config is not None

    @property
    def type(self) -> Any:  # a class of ours or of transformers; nothing common but how it is loaded
        """The class of the hint: our own if we have one, else the library's. LoadError if there is none."""
        if self.type_hint is None and self.pretrained_model_name_or_path is None:
            raise LoadError(f"{self}: needs a class. Pass type_hint=('diffusers', 'AutoencoderKL') or another.")
        try:
            return class_of(self.hint)
        except UnknownName as error:
            of_config = self.config is None and (self.type_hint is None or self.type_hint[1] in AUTO_CLASSES)
            place = self._config_file().name if of_config else "type_hint"
            raise LoadError(f"{self}: {place}: {error}") from error

    @property
    def hint(self) -> tuple[str, str]:
        """The `type_hint`; where it names no class of its own ("AutoModel"), that of the config."""
        stated = self.type_hint
        return self.own_hint() if stated is None or stated[1] in AUTO_CLASSES else stated

    def own_hint(self) -> tuple[str, str]:
        """The class that the component's own config names. LoadError if it names none."""
        config = self.read_config()
        if isinstance(name := config.get("_class_name"), str):
            return "diffusers", name
        match config.get("architectures"), config.get("tokenizer_class"), config.get("image_processor_type"):
            case ([str() as name], _, _) | (_, str() as name, _) | (_, _, str() as name):
                return "transformers", name
            case _:
                pass
        raise LoadError(f"{self}: needs a class. Got type_hint={self.type_hint}, and its config names none.")

    @property
    def location(self) -> Location:
        """The folder or repo that it comes from. LoadError if it names none."""
        if self.pretrained_model_name_or_path is None:
            raise LoadError(f"{self}: needs a folder or repo. Pass pretrained_model_name_or_path, or bind an object.")
        return open_source(self.pretrained_model_name_or_path, self.revision, self._access)

    @property
    def file(self) -> Path | None:
        """The single file that has it, of which `subfolder` names the part; None if it comes from a folder or repo."""
        path = Path(self.pretrained_model_name_or_path or "")
        return path if path.is_absolute() and path.is_file() else None

    @property
    def folder(self) -> Path:
        """The local folder with the component's files. All files of a repo but its weights are fetched now."""
        return fetch_small_files(self.location, self.subfolder)

    def read_config(self) -> dict[str, JsonValue]:
        """The component's config: the inline one, else the JSON file in its folder. Opens no weight file."""
        if self.config is not None:
            return dict(self.config)
        return read_json(self._config_file())

    def _config_file(self) -> Path:
        folder = self.folder
        names = (*CONFIGS, "tokenizer_config.json")
        return folder / next((n for n in names if (folder / n).is_file()), CONFIGS[0])

    def bindable(self) -> Any:  # a Handle, which knows this class
        """A handle of the process's own manager, which a graph binds for this spec."""
        return codecs["handle"](self)

    def to_json(self) -> dict[str, JsonValue]:
        """The five published keys, and those of dtype, quantization and config that are set; see `from_json`."""
        data: dict[str, JsonValue] = {name: getattr(self, name) for name in PUBLISHED}
        data["type_hint"] = list(self.type_hint or (None, None))
        ours: dict[str, JsonValue] = {"dtype": self.dtype, "quantization": self.quantization, "config": self.config}
        return data | {name: value for name, value in ours.items() if value is not None}

    @classmethod
    def from_json(cls, data: Mapping[str, JsonValue], *, of_file: bool = False) -> "ComponentSpec":
        """A spec from `to_json` or an index file, where the old key `repo` means the path. ConfigError if unfit.

        of_file: whether a file has the JSON. Its path was checked by `source_in_file`, and is not looked for in the
        working folder.
        """
        fields = dict(data)
        repo = fields.pop("repo", None)
        if fields.get("pretrained_model_name_or_path") is None and repo is not None:
            fields["pretrained_model_name_or_path"] = repo
        try:
            return cls.model_validate(fields, context=_KEEP_PATH if of_file else None)
        except ValidationError as error:
            raise ConfigError("; ".join(explain(error))) from error

    def __str__(self) -> str:
        where = self.pretrained_model_name_or_path or ("inline config" if self.config is not None else "no path")
        name = self.type_hint[1] if self.type_hint else "component"
        return printable(f"{name} ({where}{'/' if self.subfolder else ''}{self.subfolder})")


def _with_lists(value: object) -> object:
    """A value with lists in place of tuples, as JSON has them."""
    match value:
        case Mapping():
            return {key: _with_lists(item) for key, item in cast("Mapping[object, object]", value).items()}
        case list() | tuple():
            return [_with_lists(item) for item in cast("Sequence[object]", value)]
        case _:
            return value


def explain(error: ValidationError) -> list[str]:
    """A line for each problem: the key, what it needs, and the value passed."""
    lines: list[str] = []
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = f"no such key. {did_you_mean(place, ComponentSpec.model_fields)}"
        elif problem["type"] != "value_error":
            message = f"{message}. Got {problem['input']!r}."
        lines.append(message if message.startswith(f"{place}:") else f"{place}: {message}")
    return lines


def class_of(hint: tuple[str, str]) -> Any:
    """The class of a published hint (library and class): our own if it reads the same files, else the library's.

    Raises:
        UnknownName: the library has no such class, or may not be imported.
    """
    if (path := native.get(hint)) is not None:
        module, _, name = path.partition(":")
        return getattr(import_module(module), name)
    return resolve(hint)
