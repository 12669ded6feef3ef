"""What the law reads: a real file's content by name, and a function that reads a changed one as the library does."""

import json
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

import sfumato as sf
from sfumato.components.loading.index import read_index
from sfumato.components.loading.single_file.checkpoint import FAMILIES, facts_of
from sfumato.components.loading.tokenizer import CLIPTokenizer
from sfumato.components.loading.tokenizer_t5 import T5Tokenizer
from sfumato.components.schedulers import Scheduler
from sfumato.components.storage.building import on_meta
from sfumato.graph.files import to_json
from sfumato.graph.json_text import parse
from sfumato.registry import models, schedulers

FILES = Path(__file__).parents[2] / "files"
FORMATS = FILES / "formats"
EMOJI = Path(sf.__file__).parent / "presets/embedded/emoji"


class Subject(NamedTuple):
    """A file's content, and what reads it."""

    content: Any
    read: Callable[[Any], object]


@cache
def subjects() -> Mapping[str, Subject]:
    """All of them, by name."""
    found: dict[str, Subject] = {}
    published = json.loads((FILES.parent / "data/published_configs.json").read_text(encoding="utf-8"))
    for family in sorted(file.stem for file in FAMILIES.glob("*.json")):
        found[f"{family} scheduler"] = Subject(facts_of(family)["scheduler"], _run_scheduler)
        for name, model in facts_of(family)["models"].items():
            if name in published.get(family, {}):
                read = partial(_make_model, model["class"][1])
                config = published[family][name]["config"]
                notes = {"model_type": models[model["class"][1]].model_type} if "architectures" in config else {}
                found[f"{family} {name}"] = Subject({**notes, **config}, read)
    for name in models:
        if not models[name].__module__.startswith("sfumato."):  # a test added it
            continue
        needed = {"addition_time_embed_dim": 256} if name == "ControlNetUnionModel" else {}
        with on_meta():
            found[f"model {name}"] = Subject(models[name](**needed).to_config(), partial(_make_model, name))
    for file, kind in (("unet_config", "UNet2DConditionModel"), ("vae_config", "AutoencoderKL")):
        found[f"published {file}"] = Subject(_json(FORMATS / f"{file}.json"), partial(_make_model, kind))
    for name in schedulers:
        found[f"scheduler {name}"] = Subject(schedulers[name]().to_config(), _run_scheduler)
    for file in ("guider_config.cfg", "guider_config.slg"):
        read = _file_of("guider_config.json", sf.guiders.from_pretrained)
        found[f"published {file}"] = Subject(_json(FORMATS / f"{file}.json"), read)
    for file in ("sd15_model_index", "sdxl_model_index"):
        found[file] = Subject(_json(FORMATS / f"{file}.json"), _file_of("model_index.json", read_index))
    modular = _json(FORMATS / "sdxl_modular_model_index.json")
    found["modular index"] = Subject(modular, _file_of("modular_model_index.json", read_index))
    found["graph of emoji"] = Subject(to_json(sf.load("emoji")), _file_of("graph.json", _graph))
    for name in ("tokenizer_config.json", "vocab.json", "special_tokens_map.json"):
        content = _json(EMOJI / "tokenizer" / name)
        found[f"CLIP {name}"] = Subject(content, _file_of(name, CLIPTokenizer.from_pretrained, EMOJI / "tokenizer"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        content = _json(FILES / "t5" / name)
        found[f"T5 {name}"] = Subject(content, _file_of(name, T5Tokenizer.from_pretrained, FILES / "t5"))
    return found


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _strict(content: Any) -> Any:
    """The content after it was a file: what our reader refuses ends here."""
    return parse(json.dumps(content), infinity=True)


def _make_model(name: str, content: Any) -> object:
    config = _strict(content)
    if not isinstance(config, dict):
        raise sf.ConfigError("no config")
    with on_meta():
        return models[name].from_config(config)


def _run_scheduler(content: Any) -> object:
    config = _strict(content)
    if not isinstance(config, dict):
        raise sf.ConfigError("no config")
    scheduler = Scheduler.from_config(config)
    schedule = scheduler.steps(4, image_tokens=1024)
    wrong = [x for x in (*schedule.timesteps, *schedule.sigmas) if math.isnan(x)]
    assert not wrong and len(schedule) <= 10_000, f"{len(schedule)} steps, {len(wrong)} of them no numbers"
    sample = torch.zeros(1, 4, 4, 4)
    step = schedule[0]
    return scheduler.advance(sample, sample, step, (), sample if step.noisy else None)


def _graph(folder: Path) -> object:
    graph = sf.Graph.load(folder)
    return graph.signature


def _file_of(name: str, read: Callable[[Path], object], beside: Path | None = None) -> Callable[[Any], object]:
    """A function that writes content as this file, beside those of a folder, and reads the folder."""
    return partial(_read_file, name, read, beside)


def _read_file(name: str, read: Callable[[Path], object], beside: Path | None, content: Any) -> object:
    with tempfile.TemporaryDirectory() as folder:
        for file in beside.iterdir() if beside else ():
            shutil.copy(file, folder)
        Path(folder, name).write_text(json.dumps(content), encoding="utf-8")
        return read(Path(folder))
