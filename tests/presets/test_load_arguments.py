"""Arguments of `sf.load` and its sisters that do not fit: one sentence each, before anything is read."""

import re
from typing import Any

import pytest
import torch

import sfumato as sf
from sfumato import ConfigError, Graph, LoadError

from .support import counted, fresh

WHAT = "needs the name of a preset, a folder, a file or a repo. Got "
DEVICES = "Write 'cuda' for an NVIDIA or AMD GPU, 'mps' for a Mac, 'xpu' for an Intel GPU, or 'cpu'."
FLOATS = "dtype: needs a floating dtype of torch such as 'float32' or 'float16'. Got "

LOADED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a number": ({"x": 123}, ConfigError, f"{WHAT}123 (int). Write sf.load('emoji')."),
    "None": ({"x": None}, ConfigError, f"{WHAT}None (NoneType). Write sf.load('emoji')."),
    "no text": ({"x": ""}, ConfigError, f"{WHAT}an empty text. Write sf.load('emoji')."),
    "a list": ({"x": ["emoji"]}, ConfigError, f"{WHAT}['emoji'] (list). Write sf.load('emoji')."),
    "a task first": (
        {"x": "inpaint", "task": "emoji"},
        LoadError,
        "'inpaint' is a task. The checkpoint comes first: sf.load('emoji', 'inpaint').",
    ),
    "a class first": (
        {"x": "AutoencoderKL"},
        LoadError,
        "'AutoencoderKL' is a class. The folder comes first: sf.load_component(folder, 'AutoencoderKL').",
    ),
    "an unknown device": ({"device": "gpu"}, ConfigError, f"device: torch knows no device 'gpu'. {DEVICES}"),
    "a number as device": ({"device": 3.5}, ConfigError, f"device: torch knows no device 3.5. {DEVICES}"),
    "a device without values": (
        {"device": "meta"},
        ConfigError,
        "device: tensors on 'meta' have no values, so nothing runs there. Pass another device.",
    ),
    "a device of a map": (
        {"device_map": {"unet": "gpu"}},
        ConfigError,
        f"device_map of unet: torch knows no device 'gpu'. {DEVICES}",
    ),
    "whole numbers": (
        {"dtype": "int8"},
        ConfigError,
        f"{FLOATS}'int8'. For weights in few bits write quantization={{'unet': 'nf4'}}.",
    ),
    "float8": (
        {"dtype": "float8_e4m3fn"},
        ConfigError,
        "dtype: layers do not compute in float8_e4m3fn. Write manager.offload(storage='float8_e4m3fn'), which keeps "
        "weights in it.",
    ),
    "a number as dtype": ({"dtype": 5}, ConfigError, f"{FLOATS}5."),
    "a dtype of nobody": (
        {"dtype": {"unett": "float16"}},
        ConfigError,
        "dtype: no component 'unett'. Did you mean 'unet'? There are: scheduler, text_encoder, tokenizer, unet, vae.",
    ),
    "a quantization of an object": (
        {"quantization": {"unet": "nf4"}, "unet": torch.nn.Linear(1, 1)},
        ConfigError,
        "quantization: unet is passed as a Linear, and only weights in files are quantized. Pass the path of its "
        "folder: unet='folder'.",
    ),
    "one quantization for all": (
        {"quantization": "nf4"},
        ConfigError,
        "quantization: needs a kind for each component, got 'nf4'. Write it as a dict: {'unet': 'nf4'}. There are: "
        "scheduler, text_encoder, tokenizer, unet, vae.",
    ),
    "a quantized scheduler": (
        {"quantization": {"scheduler": "nf4"}},
        ConfigError,
        "quantization: scheduler is a DDIMScheduler, which has no weights. Write for example {'unet': 'nf4'}.",
    ),
    "a manager by name": ({"manager": "cuda"}, ConfigError, "manager: needs a ComponentsManager. Got 'cuda' (str)."),
    "a graph by name": ({"graph": "mine"}, ConfigError, "graph: needs a graph. Got 'mine' (str)."),
    "a number as variant": ({"variant": 16}, ConfigError, "variant: needs a text. Got 16 (int)."),
    "a token as access": ({"access": "hf_…"}, ConfigError, "access: needs sf.Access(…). Got 'hf_…' (str)."),
}


def _loaded(arguments: dict[str, Any]) -> Any:  # arguments of any kind, and what is made of them
    make: Any = sf.load
    return make(**{"x": "emoji", **arguments})


@pytest.mark.parametrize("mistake", LOADED)
def test_an_argument_that_does_not_fit_is_refused_in_one_sentence(mistake: str) -> None:
    arguments, error, text = LOADED[mistake]
    manager = fresh()
    with pytest.raises(error) as caught:
        _loaded({"manager": manager, **arguments})
    assert str(caught.value) == text
    assert len(manager) == 0


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps", "xpu"])
def test_a_device_that_this_machine_lacks_is_refused_before_anything_is_read(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    text = rf"device: torch finds no '{device}(:0)?' on this machine\. It finds: cpu\."
    makers: list[Any] = [
        lambda: sf.load("emoji", device=device),
        lambda: sf.load("emoji", device_map={"unet": device}),
        lambda: sf.load_component("emoji", "AutoencoderKL", device=device),
        lambda: sf.ComponentsManager(device=device),
        lambda: fresh().to("unet", device=device),
    ]
    for make in makers:
        with pytest.raises(ConfigError, match=text):
            make()


def test_each_component_may_have_its_dtype() -> None:
    pipe = sf.load("emoji", manager=fresh(), dtype={"unet": torch.bfloat16, "default": "float16"})
    dtypes = {name: pipe.bindings[name].load().dtype for name in ("unet", "vae", "text_encoder")}
    assert dtypes == {"unet": torch.bfloat16, "vae": torch.float16, "text_encoder": torch.float16}
    pipe = sf.load("emoji", manager=fresh(), dtype={"vae": "float16"})
    assert (pipe.bindings["unet"].dtype, pipe.bindings["vae"].dtype) == ("float32", "float16")


@pytest.mark.parametrize("task", [None, 3, ["inpaint"]])
def test_a_task_that_is_no_name_is_refused(emoji: Graph, task: Any) -> None:
    text = rf"Got {re.escape(repr(task))}\. There are: text2image, image2image, inpaint\."
    with counted(emoji) as did:
        with pytest.raises(sf.WireError, match=f"task  needs the name of a task. {text}"):
            emoji.task(task)
        with pytest.raises(LookupError, match=f"A task is a name. {text}"):
            sf.load("emoji", task)
    assert did.all == 0


def test_a_folder_in_place_of_a_class_is_named() -> None:
    with pytest.raises(LoadError, match=r"'/models/vae' is no class\. The folder comes first: "):
        sf.load_component("AutoencoderKL", "/models/vae")


ANY: Any = sf  # Any: so that wrong calls can be written


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: ANY.load("emoji", devise="cpu"), "sf.load has no argument 'devise'. Did you mean 'device'?"),
        (lambda: ANY.load("sd", quantisation={}), "'quantisation'. Did you mean 'quantization'?"),
        (lambda: ANY.load_component("emoji", "AutoencoderKL", devise="cpu"), "has no argument 'devise'. Did you"),
        (lambda: ANY.load_component("emoji", "AutoencoderKL", torch_dtype=1), "has no argument 'torch_dtype'. Write"),
        (lambda: ANY.inspect("emoji", varient="fp16"), "inspect has no argument 'varient'. Did you mean 'variant'?"),
        (lambda: ANY.load("emoji").save_pretrained("x", licence="mit"), "save_pretrained has no argument 'licence'"),
        (lambda: ANY.push_to_hub(ANY.load("emoji"), "a/b", privat=True), "push_to_hub has no argument 'privat'"),
        (lambda: ANY.load("emoji").bind(uent=1), "Did you mean 'unet'?"),
    ],
)  # fmt: skip
def test_a_misspelt_keyword_names_the_near_one(call: Any, text: str) -> None:
    with pytest.raises((sf.ConfigError, sf.WireError)) as error:
        call()
    assert text in str(error.value)


def test_a_quantized_component_is_not_streamed() -> None:
    manager = sf.ComponentsManager()
    manager.offload("unet", by="blocks")
    text = (
        "unet is quantized, so it cannot be kept by='blocks', storage=None. Quantized components are moved as a whole: "
        "use by='model', storage=None."
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        sf.load("emoji", manager=manager, quantization={"unet": "nf4"})


def test_adapters_are_no_argument_of_load() -> None:
    with pytest.raises(sf.WireError, match=r"An adapter \(LoRA\) is a value: a = sf\.load_adapter\(file\), then pipe"):
        sf.load("emoji", adapters=[])
