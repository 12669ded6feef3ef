"""A manager loads each component once, says what is missing before it loads, and what it holds."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.components.loading.index import read_index
from sfumato.components.manager import ComponentsManager
from sfumato.components.models.clip import CLIPTextModel
from sfumato.components.spec import ComponentSpec
from sfumato.components.storage import tensors
from sfumato.graph.errors import LoadError
from sfumato.graph.fields import Lazy
from sfumato.graph.space import LatentSpace

from .conftest import AnyDevice

EMOJI = Path(__file__).parents[2] / "presets/embedded/emoji"
TEXT = ComponentSpec(
    type_hint=("transformers", "CLIPTextModel"), pretrained_model_name_or_path=str(EMOJI), subfolder="text_encoder"
)
SCHEDULER = ComponentSpec(type_hint=("diffusers", "DDIMScheduler"), config={"prediction_type": "v_prediction"})
PARAMETERS = 531_456  # of the emoji text tower


def test_equal_specs_are_one_object_and_unlike_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = ComponentsManager()
    monkeypatch.chdir(EMOJI.parent)
    again = TEXT.using(pretrained_model_name_or_path="./emoji")
    assert manager.load(TEXT) is manager.load(again)
    assert manager.handle(TEXT).load() is manager.handle(TEXT, dtype="float32").load()
    assert manager.load(TEXT) is not manager.handle(TEXT, dtype=torch.float16).load()
    projected = TEXT.using(type_hint=("transformers", "CLIPTextModelWithProjection"))
    assert manager.handle(projected) != manager.handle(TEXT)
    assert ComponentsManager().load(TEXT) is not manager.load(TEXT)
    assert len(manager) == 2


def test_a_handle_is_a_value_and_loads_nothing() -> None:
    manager = ComponentsManager()
    handle = manager.handle(TEXT)
    assert {handle, manager.handle(TEXT)} == {handle}
    assert handle != ComponentsManager().handle(TEXT)
    assert (handle.spec, handle.type, handle.space) == (TEXT, CLIPTextModel, None)
    assert handle.to_json() == TEXT.to_json()
    handle.ready()
    assert (len(manager), manager.bytes, manager.get(handle.key)) == (0, 0, None)


def test_the_properties_of_a_handle_never_raise(emoji: Path) -> None:
    """Checking a graph reads the properties of its handles, so they do not raise; `ready` does."""
    vae = TEXT.using(
        type_hint=("diffusers", "AutoencoderKL"), pretrained_model_name_or_path=str(emoji), subfolder="vae"
    )
    (emoji / "vae" / "config.json").write_text("{")
    for spec in (vae, vae.using(type_hint=("antigravity", "Fly")), ComponentSpec()):
        handle = ComponentsManager().handle(spec)
        assert isinstance(handle, Lazy)
        assert handle.space is None
        with pytest.raises(LoadError):
            handle.ready()


def test_half_precision_files_are_loaded_in_float32_unless_asked_otherwise() -> None:
    manager = ComponentsManager()
    assert manager.load(TEXT).dtype == torch.float32
    assert manager.handle(TEXT, dtype="float16").load().dtype == torch.float16
    assert manager.load(TEXT.using(dtype="bfloat16")).dtype == torch.bfloat16
    assert ComponentsManager(dtype="float16").load(TEXT).dtype == torch.float16


def test_the_device_is_part_of_the_key() -> None:
    manager = ComponentsManager(mover=AnyDevice())
    elsewhere = manager.handle(TEXT, device="meta")
    assert elsewhere != manager.handle(TEXT)
    assert elsewhere.load().device.type == "meta"
    assert manager.load(TEXT).device.type == "cpu"


def test_every_component_of_a_folder_is_loaded_by_its_class() -> None:
    manager = ComponentsManager()
    index = read_index(EMOJI)
    loaded = {name: manager.load(spec) for name, spec in index.loadable.items()}
    assert {name: type(thing).__name__ for name, thing in loaded.items()} == {
        name: spec.type_hint[1] for name, spec in index.loadable.items() if spec.type_hint
    }
    assert manager.handle(index.spec("unet")).space == LatentSpace(channels=8, scaling=0.18215, shift=0.0)
    models = [thing for thing in loaded.values() if isinstance(thing, torch.nn.Module)]
    assert len(models) == 3
    assert not any(model.training or p.requires_grad or p.is_meta for model in models for p in model.parameters())


def test_components_are_made_from_an_inline_config() -> None:
    manager = ComponentsManager()
    scheduler = manager.load(SCHEDULER)
    assert scheduler.to_config()["prediction_type"] == "v_prediction"
    assert manager.load(SCHEDULER.using()) is scheduler


def test_eight_threads_at_once_load_once_and_get_a_whole_model(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    plain = CLIPTextModel.from_pretrained.__func__  # pyright: ignore[reportFunctionMemberAccess]  a bound classmethod

    def counted(cls: Any, *args: Any, **kwargs: Any) -> Any:
        loads.append(threading.current_thread().name)
        return plain(cls, *args, **kwargs)

    monkeypatch.setattr(CLIPTextModel, "from_pretrained", classmethod(counted))
    manager = ComponentsManager()
    barrier = threading.Barrier(8)

    def load(_: int) -> Any:
        barrier.wait()
        return manager.handle(TEXT).load()

    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(load, range(8)))
    assert len(loads) == 1
    assert all(model is got[0] for model in got)
    assert not any(p.is_meta for p in got[0].parameters())
    assert got[0](torch.zeros(1, 3, dtype=torch.long)).last_hidden_state.isfinite().all()


def test_threads_that_load_unlike_components_get_whole_ones() -> None:
    manager = ComponentsManager()
    specs = list(read_index(EMOJI).loadable.values()) * 3
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(manager.load, specs))
    assert len({id(thing) for thing in got}) == len(manager) == 5
    models = [thing for thing in got if isinstance(thing, torch.nn.Module)]
    assert not any(p.is_meta or p.requires_grad for model in models for p in model.parameters())


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The weight files opened since the test began."""
    files: list[str] = []
    plain = tensors.safe_open

    def counted(path: Any, *args: Any, **kwargs: Any) -> Any:
        files.append(str(path))
        return plain(path, *args, **kwargs)

    monkeypatch.setattr(tensors, "safe_open", counted)
    return files


def test_ready_finds_what_is_missing_and_opens_no_weight_file(emoji: Path, opened: list[str]) -> None:
    manager = ComponentsManager()
    spec = TEXT.using(pretrained_model_name_or_path=str(emoji))
    manager.handle(spec).ready()
    for path in (emoji / "text_encoder").iterdir():
        path.unlink()
    manager.handle(spec).ready()  # once found, not looked for again
    with pytest.raises(LoadError) as caught:
        ComponentsManager().handle(spec).ready()
    text = str(caught.value)
    assert text.startswith(f"CLIPTextModel ({emoji}/text_encoder): (2 problems)\n")
    assert "config.json: there is no such file" in text
    assert "has no weights. Looked for model.safetensors, model.safetensors.index.json." in text
    assert opened == []
    ComponentsManager().load(TEXT)
    assert set(opened) == {str(EMOJI / "text_encoder" / "model.safetensors")}


def test_ready_names_a_missing_folder_variant_and_scheduler(emoji: Path, opened: list[str]) -> None:
    def told(spec: ComponentSpec) -> str:
        with pytest.raises(LoadError) as caught:
            ComponentsManager().handle(spec).ready()
        with pytest.raises(LoadError):
            ComponentsManager().load(spec)
        return str(caught.value)

    here = TEXT.using(pretrained_model_name_or_path=str(emoji))
    assert "Beside it: adapter, adapters, scheduler, text_encoder, tokenizer, unet, vae" in told(
        here.using(subfolder="text_encoder_2")
    )
    assert "Looked for model.fp16.safetensors" in told(here.using(variant="fp16"))
    unet = ("diffusers", "UNet2DConditionModel")
    wrong = told(here.using(type_hint=unet, subfolder="vae"))
    assert "this is a AutoencoderKL, and type_hint says UNet2DConditionModel. Change one of them." in wrong
    (emoji / "unet" / "diffusion_pytorch_model.safetensors").rename(emoji / "unet" / "diffusion_pytorch_model.bin")
    assert "only pickles" in told(here.using(type_hint=unet, subfolder="unet"))
    scheduler = told(here.using(type_hint=("diffusers", "DDIMScheduler"), subfolder="unet"))
    assert "no scheduler_config.json, which a DDIMScheduler is read from. It has: config.json" in scheduler
    tokenizer = told(here.using(type_hint=("transformers", "CLIPTokenizer"), subfolder="vae"))
    assert "no tokenizer.json or vocab.json" in tokenizer
    assert "Did you mean 'UNet2DConditionModel'?" in told(here.using(type_hint=("diffusers", "UNet2DConditionalModel")))
    assert "a CLIPTokenizer is not made from a config" in told(
        ComponentSpec(type_hint=("transformers", "CLIPTokenizer"), config={})
    )
    assert opened == []


def test_a_scheduler_may_be_read_from_another_schedulers_file() -> None:
    """Swapping the class in an index is how the ecosystem chooses a scheduler."""
    spec = ComponentSpec(
        type_hint=("diffusers", "EulerDiscreteScheduler"),
        pretrained_model_name_or_path=str(EMOJI),
        subfolder="scheduler",
    )
    assert type(ComponentsManager().load(spec)).__name__ == "EulerDiscreteScheduler"


def test_a_load_that_fails_can_be_tried_again(emoji: Path) -> None:
    manager = ComponentsManager()
    spec = TEXT.using(pretrained_model_name_or_path=str(emoji))
    config = emoji / "text_encoder" / "config.json"
    good = config.read_text()
    config.write_text(json.dumps({**json.loads(good), "hidden_act": "relu"}))
    with pytest.raises(LoadError, match=r"^CLIPTextModel \(.*(.|\n)*hidden_act  needs .* got 'relu'"):
        manager.load(spec)
    assert len(manager) == 0
    config.write_text(good)
    assert manager.load(spec) is manager.load(spec)


def test_classes_of_transformers_that_we_lack_are_loaded_by_transformers(tmp_path: Path) -> None:
    transformers: Any = import_module("transformers")
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    transformers.BertModel(config).half().save_pretrained(tmp_path)
    spec = ComponentSpec(type_hint=("transformers", "BertModel"), pretrained_model_name_or_path=str(tmp_path))
    manager = ComponentsManager()
    handle = manager.handle(spec)
    handle.ready()
    model = handle.load()
    assert type(model) is transformers.BertModel
    assert (model.dtype, model.training, next(model.parameters()).requires_grad) == (torch.float32, False, False)
    (tmp_path / "config.json").write_text('{"model_type": "bert", "hidden_size": 7}')
    with pytest.raises(LoadError, match="transformers' BertModel cannot read it"):
        ComponentsManager().load(spec)
    config.num_hidden_layers = 2
    config.save_pretrained(tmp_path)
    with pytest.raises(LoadError, match=r"the weights lack encoder\.layer\.1\..*, which a BertModel has"):
        ComponentsManager().load(spec)
