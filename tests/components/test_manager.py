"""A manager loads each component once, says what is missing before it loads, and what it holds."""

import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import sfumato as sf
from sfumato.components.loading import tensors
from sfumato.components.loading.index import read_index
from sfumato.components.manager import ComponentsManager, default_manager
from sfumato.components.models.autoencoder_kl import AutoencoderKL
from sfumato.components.models.clip import CLIPTextModel
from sfumato.components.spec import ComponentSpec
from sfumato.graph.block import Lazy
from sfumato.graph.errors import ConfigError, LoadError
from sfumato.graph.space import LatentSpace

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


def test_a_handle_is_what_a_graph_holds_before_loading_and_asking_it_never_fails(emoji: Path) -> None:
    """`isinstance(handle, Lazy)` reads its properties on Python 3.11, so they must not raise; `ready` does."""
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


def test_a_device_is_part_of_what_is_asked_for() -> None:
    manager = ComponentsManager()
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


def test_ready_tells_a_missing_folder_variant_and_scheduler(emoji: Path, opened: list[str]) -> None:
    def told(spec: ComponentSpec) -> str:
        with pytest.raises(LoadError) as caught:
            ComponentsManager().handle(spec).ready()
        with pytest.raises(LoadError):
            ComponentsManager().load(spec)
        return str(caught.value)

    here = TEXT.using(pretrained_model_name_or_path=str(emoji))
    assert "Beside it: adapter, scheduler, text_encoder, tokenizer, unet, vae" in told(
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
    assert "org/repo: the Hub cannot be reached" in told(here.using(pretrained_model_name_or_path="org/repo"))
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
    with pytest.raises(LoadError, match=r"^CLIPTextModel \(.*(.|\n)*hidden_act  is 'relu'"):
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


def test_bytes_count_each_storage_once() -> None:
    manager = ComponentsManager()
    model = manager.load(TEXT)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS
    assert manager.bytes == 4 * PARAMETERS
    manager.load(TEXT.using())
    assert manager.bytes == 4 * PARAMETERS
    model.tied = model.text_model.embeddings.token_embedding  # a second way to the same storage
    model.slice = torch.nn.Parameter(model.text_model.embeddings.token_embedding.weight[:3])
    assert manager.bytes == 4 * PARAMETERS
    half = manager.handle(TEXT, dtype="float16").load()
    # On the CPU without a change of dtype the file itself is mapped, header and all.
    assert 6 * PARAMETERS <= manager.bytes <= 6 * PARAMETERS + 10_000
    assert half.dtype == torch.float16


def test_the_summary_says_what_is_held_and_the_table_shows_it() -> None:
    manager = ComponentsManager()
    tokenizer = TEXT.using(type_hint=("transformers", "CLIPTokenizer"), subfolder="tokenizer")
    manager.load(TEXT)
    manager.load(tokenizer)
    manager.handle(SCHEDULER)
    text, words, scheduler = manager.summary()
    assert text[:9] == (
        manager.handle(TEXT).key,
        "text_encoder",
        "CLIPTextModel",
        f"{EMOJI}/text_encoder",
        "float32",
        "cpu",
        "cpu",
        4 * PARAMETERS,
        True,
    )
    assert (text.used_by, scheduler.last_used) == ((), 0.0)
    assert 0 <= time.time() - text.last_used < 60
    assert (words.class_name, words.dtype, words.bytes, words.loaded) == ("CLIPTokenizer", "-", 0, True)
    assert (scheduler.class_name, scheduler.source, scheduler.loaded) == ("DDIMScheduler", "inline config", False)
    text, words = "…/embedded/emoji/text_encoder", "…/embedded/emoji/tokenizer"  # the end of a path tells them apart
    width = len(text)
    with manager.lease("text*", owner="me"):
        shown = [re.sub(r"\d+ s ago", "0 s ago", line) for line in repr(manager).split("\n")]
    assert shown == [
        "ComponentsManager(2 loaded of 3, 2.1 MB)",
        f"  name           class          {'source':<{width}}  dtype    where  size    last use  used by",
        f"  text_encoder   CLIPTextModel  {text}  float32  cpu    2.1 MB  0 s ago   me",
        f"  tokenizer      CLIPTokenizer  {words:<{width}}  -        -      0 B     0 s ago   -",
        f"  DDIMScheduler  DDIMScheduler  {'inline config':<{width}}  float32  disk   -       never     -",
    ]
    assert repr(ComponentsManager()) == "ComponentsManager(0 loaded of 0, 0 B)"


def test_what_is_removed_is_loaded_anew() -> None:
    manager = ComponentsManager()
    handle = manager.handle(TEXT)
    first = handle.load()
    assert manager.get(handle.key) is first
    assert manager.remove(TEXT)
    assert not manager.remove(handle)
    assert (len(manager), manager.bytes, manager.summary()) == (0, 0, [])
    assert handle.load() is not first
    assert [row.loaded for row in manager.summary()] == [True]


def test_an_empty_manager_is_no_false_value() -> None:
    assert ComponentsManager()
    assert default_manager() is default_manager()


def test_a_pattern_finds_components_by_name() -> None:
    """As diffusers documents patterns; there "*unet*" finds nothing, and "*_encoder" finds what has it anywhere."""
    manager = ComponentsManager()
    for folder in ("unet", "vae", "text_encoder", "text_encoder_2", "refiner"):
        manager.handle(TEXT.using(subfolder=folder))

    def found(pattern: str) -> str:
        return " ".join(handle.name for handle in manager.search(pattern))

    assert found("unet") == found("u*t") == found("*unet*") == found("une*") == found("*et") == "unet"
    assert found("!unet") == "vae text_encoder text_encoder_2 refiner"
    assert found("text_encoder") == found("*_encoder") == "text_encoder"
    assert found("!*encoder*") == "unet vae refiner"
    assert found("refiner|vae") == "vae refiner"
    assert found("!refiner|vae") == "unet text_encoder text_encoder_2"
    assert found("text*|v*") == "vae text_encoder text_encoder_2"
    assert found("un.t") == found("encoder") == ""
    assert found("*") == "unet vae text_encoder text_encoder_2 refiner"


def test_one_component_answers_to_every_name_it_was_asked_for_under() -> None:
    manager = ComponentsManager()
    handle = manager.handle(TEXT)
    assert manager.handle(TEXT, name="clip") == handle
    assert manager.search("clip") == manager.search("text_encoder") == manager.search(handle.key) == [handle]


def test_collections_group_components_of_one_manager() -> None:
    manager = ComponentsManager()
    text = manager.handle(TEXT, collection="portraits")
    scheduler = manager.handle(SCHEDULER)
    manager.collect("all", {"text_encoder": text, "scheduler": scheduler, "other": object()})
    assert manager.collections == {"portraits": [text], "all": [text, scheduler]}
    assert manager.search("*", collection="portraits") == [text]
    assert manager.search("!text*", collection="all") == [scheduler]
    manager.remove(text)
    assert manager.collections == {"portraits": [], "all": [scheduler]}
    with pytest.raises(ConfigError, match=r"collection 'all': text_encoder belong to another manager\."):
        manager.collect("all", [ComponentsManager().handle(TEXT)])
    with pytest.raises(ConfigError, match=r"no collection 'portrait'\. Did you mean 'portraits'\?"):
        manager.search(collection="portrait")


def test_get_takes_a_name_or_a_key_and_refuses_to_guess() -> None:
    manager = ComponentsManager()
    wide, half = manager.handle(TEXT), manager.handle(TEXT, dtype="float16")
    assert manager.get("text_encoder") is None
    model = wide.load()
    assert manager.get("text_encoder") is manager.get(wide.key) is model
    half.load()
    with pytest.raises(ConfigError, match=r"2 components are called 'text_encoder'\. Give a key: "):
        manager.get("text_encoder")
    assert manager.get(half.key) is half.load()
    assert manager.get("text_encodr") is None


def test_what_is_added_by_hand_is_bound_shared_and_shown() -> None:
    manager = ComponentsManager()
    model = CLIPTextModel.from_pretrained(EMOJI / "text_encoder", dtype=torch.float32)
    handle = manager.add("tower", model, collection="mine")
    assert manager.add("again", model) is handle
    assert manager.search("again") == manager.collections["mine"] == [handle]
    assert isinstance(handle, Lazy)
    assert (handle.load(), handle.type, manager.get("tower")) == (model, CLIPTextModel, model)
    pipe = sf.load(EMOJI, manager=manager).bind(text_encoder=handle)
    assert pipe(prompt="x", num_inference_steps=1, output_type="pt").images.isfinite().all()
    row = manager.summary()[[row.name for row in manager.summary()].index("tower")]
    assert (row.class_name, row.source, row.bytes) == ("CLIPTextModel", "added by hand", 4 * PARAMETERS)
    with pytest.raises(sf.GraphFileError, match=r"was added to a manager by hand.*save_pretrained\(folder\)"):
        pipe.save("never")
    assert manager.remove("tower")
    assert manager.bytes < 4 * PARAMETERS + 40_000_000 and manager.get("tower") is None
    vae = AutoencoderKL.from_pretrained(EMOJI / "vae")
    assert manager.add("vae", vae).space == vae.space
    assert manager.add("words", ("any", "object")).load() == ("any", "object")
    assert manager.remove("words")


def test_what_is_moved_to_another_dtype_is_read_anew_and_not_while_it_is_used() -> None:
    manager = ComponentsManager()
    handle = manager.handle(TEXT)
    first = handle.load()
    with (
        manager.lease([handle], owner="a run"),
        pytest.raises(ConfigError, match=r"text_encoder is in use by a run\. Change it when that"),
    ):
        manager.to("text*", dtype="float16")
    manager.to("text*", dtype="float16")
    assert (handle.load().dtype, first.dtype) == (torch.float16, torch.float32)
    manager.to("text*", device="meta")
    assert handle.load().device.type == "meta"
    mine = CLIPTextModel.from_pretrained(EMOJI / "text_encoder", dtype=torch.float32)
    added = manager.add("tower", mine)
    manager.to("tower", dtype="bfloat16")
    assert added.load() is mine and mine.dtype == torch.bfloat16
