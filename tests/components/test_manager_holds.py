"""What a manager holds: its bytes, its table, and how components are found, grouped, added and moved."""

import re
import time
from pathlib import Path

import pytest
import torch

import sfumato as sf
from sfumato.components.manager import ComponentsManager, default_manager
from sfumato.components.models.autoencoder_kl import AutoencoderKL
from sfumato.components.models.clip import CLIPTextModel
from sfumato.components.spec import ComponentSpec
from sfumato.graph.errors import ConfigError
from sfumato.graph.fields import Lazy

from .conftest import AnyDevice

EMOJI = Path(__file__).parents[2] / "presets/embedded/emoji"
TEXT = ComponentSpec(
    type_hint=("transformers", "CLIPTextModel"), pretrained_model_name_or_path=str(EMOJI), subfolder="text_encoder"
)
SCHEDULER = ComponentSpec(type_hint=("diffusers", "DDIMScheduler"), config={"prediction_type": "v_prediction"})
PARAMETERS = 531_456  # of the emoji text tower


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


def test_the_summary_has_a_row_for_each_component_and_the_table_shows_it() -> None:
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


def test_a_removed_component_is_loaded_again() -> None:
    manager = ComponentsManager()
    handle = manager.handle(TEXT)
    first = handle.load()
    assert manager.get(handle.key) is first
    assert manager.remove(TEXT)
    assert not manager.remove(handle)
    assert (len(manager), manager.bytes, manager.summary()) == (0, 0, [])
    assert handle.load() is not first
    assert [row.loaded for row in manager.summary()] == [True]


def test_an_empty_manager_is_true() -> None:
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


def test_a_component_is_found_by_each_of_its_names() -> None:
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


def test_get_takes_a_name_or_a_key_and_refuses_an_ambiguous_name() -> None:
    manager = ComponentsManager()
    wide, half = manager.handle(TEXT), manager.handle(TEXT, dtype="float16")
    assert manager.get("text_encoder") is None
    model = wide.load()
    assert manager.get("text_encoder") is manager.get(wide.key) is model
    half.load()
    with pytest.raises(ConfigError, match=r"2 components are called 'text_encoder'\. Pass a key: "):
        manager.get("text_encoder")
    assert manager.get(half.key) is half.load()
    assert manager.get("text_encodr") is None


def test_an_added_object_is_bound_shared_and_shown() -> None:
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


def test_for_another_dtype_a_component_is_read_again_and_not_while_it_is_used() -> None:
    manager = ComponentsManager(mover=AnyDevice())
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


def test_arguments_of_add_that_are_no_name_or_no_component_are_refused() -> None:
    manager = ComponentsManager()
    vae = AutoencoderKL.from_pretrained(EMOJI / "vae")
    wrong: list[tuple[object, object, str]] = [
        (vae, "vae", "add: the name comes first. Write manager.add('vae', component)."),
        ("", vae, "add: needs a name without *, | and !, which have a meaning in patterns. Got ''."),
        ("a|b", vae, "add: needs a name without *, | and !, which have a meaning in patterns. Got 'a|b'."),
        ("vae", None, "add: needs an object such as a model. Got None (NoneType)."),
        ("vae", "folder", "add: needs an object such as a model. Got 'folder' (str)."),
        (
            "vae",
            AutoencoderKL,
            "add: needs an object. Got the class AutoencoderKL. Make one: AutoencoderKL(…).",
        ),
        (
            "text",
            TEXT,
            "add: needs a loaded object. Got a ComponentSpec. Write manager.handle(spec) for what files have.",
        ),
        (
            "text",
            manager.handle(TEXT),
            "add: needs a loaded object. Got a Handle. Write manager.handle(spec) for what files have.",
        ),
    ]
    for name, component, text in wrong:
        with pytest.raises(ConfigError) as caught:
            manager.add(name, component)  # pyright: ignore[reportArgumentType]
        assert str(caught.value) == text
    assert [handle.name for handle in manager.search()] == ["text_encoder"]
