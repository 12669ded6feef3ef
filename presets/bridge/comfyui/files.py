"""Model files by the names that a workflow has, in a folder with ComfyUI's subfolders."""

import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath

from ....graph.errors import ConfigError
from ....graph.limits import limit
from .report import NeededFile
from .values import ModelFile

FOLDERS: Mapping[str, tuple[str, ...]] = {
    "checkpoints": ("checkpoints",),
    "diffusion_models": ("diffusion_models", "unet"),
    "text_encoders": ("text_encoders", "clip"),
    "vae": ("vae",),
    "loras": ("loras",),
    "controlnet": ("controlnet",),
    "clip_vision": ("clip_vision",),
    "style_models": ("style_models",),
    "embeddings": ("embeddings",),
    "ipadapter": ("ipadapter",),
}
"""The folders of ComfyUI's `models` in which each kind of file is, the newer name first."""
Models = str | os.PathLike[str] | Mapping[str, "str | os.PathLike[str]"] | None
"""A folder with ComfyUI's subfolders, or a mapping from names of files to their paths."""


class Files:
    """Finds model files, and remembers which were wanted."""

    def __init__(self, models: Models, urls: Mapping[str, str]) -> None:
        if models is not None and not isinstance(models, str | os.PathLike | Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]  a user's argument
            raise ConfigError(
                f"models needs a folder, or a mapping from names of files to paths. Got {type(models).__name__}."
            )
        self._models, self._urls = models, urls
        self._found: dict[ModelFile, Path | None] = {}
        if isinstance(models, str | os.PathLike) and not Path(models).is_dir():
            raise ConfigError(f"models={str(models)!r} is no folder. Pass the folder 'models' of ComfyUI.")

    def find(self, file: ModelFile) -> Path | None:
        """The path of a file; None if there is none."""
        if file not in self._found:
            self._found[file] = self._search(file)
        return self._found[file]

    @property
    def needed(self) -> tuple[NeededFile, ...]:
        """All files that were asked for."""
        return tuple(NeededFile(f.folder, f.name, path, self._urls.get(f.name, "")) for f, path in self._found.items())

    def want(self, files: Iterable[ModelFile]) -> None:
        """Look for files that no block here reads, for the report."""
        for file in files:
            self.find(file)

    def _search(self, file: ModelFile) -> Path | None:
        name = file.name.replace("\\", "/")
        if isinstance(self._models, Mapping):
            given = self._models.get(file.name) or self._models.get(PurePosixPath(name).name)
            return None if given is None else Path(given)
        if self._models is None or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            return None
        for folder in FOLDERS.get(file.folder, (file.folder,)):
            path = Path(self._models) / folder / name
            if path.is_file():
                return path
            if (beside := self._by_name.get(folder, {}).get(PurePosixPath(name).name)) is not None:
                return beside
        return None

    @cached_property
    def _by_name(self) -> dict[str, dict[str, Path]]:
        """All files in subfolders, by folder and name: workflows of others have other subfolders."""
        found: dict[str, dict[str, Path]] = {}
        assert isinstance(self._models, str | os.PathLike)
        count = 0
        for folder in {name for names in FOLDERS.values() for name in names}:
            for root, _, names in os.walk(Path(self._models) / folder):
                count += len(names)
                if count > limit("repo_files"):
                    return found
                for name in names:
                    found.setdefault(folder, {}).setdefault(name, Path(root) / name)
        return found
