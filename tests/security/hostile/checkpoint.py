"""A tiny checkpoint, and what a user does with a folder or a file: inspect it, check it, run it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import sfumato as sf
from sfumato.components.loading.single_file.writing import write_checkpoint
from sfumato.components.manager import ComponentsManager

from .table import Action

WEIGHTS = "diffusion_pytorch_model.safetensors"
CALL: dict[str, Any] = {
    "prompt": "a fox", "num_inference_steps": 1, "seed": 0, "output_type": "pt", "height": 64, "width": 64,
}  # fmt: skip
EMBEDDED = Path(sf.__file__).parent / "presets/embedded/emoji"
_PLACE: list[Path] = []


def prepare(root: Path) -> None:
    """Make the checkpoint, as a folder and as a file, and run it once, so that children have all imports."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = root / "tiny"
    models = _models()
    for name, model in models.items():
        model.half().save_pretrained(folder / name)
    for name in ("tokenizer", "scheduler"):
        shutil.copytree(EMBEDDED / name, folder / name)
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.1",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "safety_checker": [None, None],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    write_checkpoint(root / "tiny.safetensors", "sd1", models)
    _PLACE[:] = [root]
    for x in (folder, root / "tiny.safetensors"):
        sf.inspect(x)
        sf.load(x, manager=fresh())(**CALL)
    _warm(root)


def _models() -> dict[str, Any]:
    return {
        "unet": sf.models.UNet2DConditionModel(
            sample_size=8, in_channels=4, out_channels=4, block_out_channels=(32, 64), layers_per_block=1,
            norm_num_groups=32, cross_attention_dim=32, attention_head_dim=8,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        ),
        "vae": sf.models.AutoencoderKL(
            sample_size=64, block_out_channels=(32, 32, 32, 32), norm_num_groups=32, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        ),
        "text_encoder": sf.models.CLIPTextModel(
            vocab_size=49408, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=77, bos_token_id=2046, eos_token_id=2047, pad_token_id=2047,
        ),
    }  # fmt: skip


def _warm(root: Path) -> None:
    """Import what commands, drawings and graph files need."""
    from .commands import command

    place = root / "warm"
    place.mkdir()
    for words in (["show", "emoji"], ["check", "emoji"], ["inspect", "emoji"], ["presets", "--json"]):
        command(*words)()
    folder = checkpoint(place)
    sf.load(folder, manager=fresh()).save(folder)
    sf.Graph.load(folder).show("svg")


def fresh() -> ComponentsManager:
    """A manager that holds nothing."""
    return ComponentsManager()


def checkpoint(place: Path) -> Path:
    """A copy of the tiny checkpoint that may be changed."""
    return shutil.copytree(_PLACE[0] / "tiny", place / "checkpoint")


def single_file(place: Path) -> Path:
    """A copy of the tiny checkpoint as one file."""
    return Path(shutil.copy(_PLACE[0] / "tiny.safetensors", place / "tiny.safetensors"))


def change_json(file: Path, change: Callable[[Any], Any]) -> None:  # JSON values
    """Put what `change` returns in place of the content of a JSON file; what it changes in place, if it is None."""
    data = json.loads(file.read_text())
    made = change(data)
    file.write_text(json.dumps(data if made is None else made))


def used(x: Path | str, **more: Any) -> Action:
    """What users do with a checkpoint: look at it, load it, check it and run it."""

    def action() -> list[object]:
        pipe: list[sf.Graph] = []
        return each(
            lambda: str(sf.inspect(x, **{k: v for k, v in more.items() if k == "allow_pickle"})),
            lambda: pipe.append(sf.load(x, manager=fresh(), **more)),
            lambda: [str(problem) for graph in pipe for problem in graph.check()],
            lambda: [graph(**CALL) for graph in pipe],
        )

    return action


def each(*actions: Action) -> list[object]:
    """The results of all actions. If one is refused, the last refusal, with the other results as its notes."""
    from .child import OURS

    results: list[object] = []
    refusal: BaseException | None = None
    for action in actions:
        try:
            results.append(action())
        except OURS as error:
            refusal = error
            results.append(str(error))
    if refusal is not None:
        for result in results:
            refusal.add_note(str(result))
        raise refusal
    return results
