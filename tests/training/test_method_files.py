"""Each method ends with a file that the preset loads, and with it the preset draws the sample of the training."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import sfumato as sf
from sfumato import Graph
from sfumato.blocks.denoise.unet import PredictDistilled
from sfumato.blocks.train.encode import Posterior
from sfumato.blocks.train.text import DrawPrompts
from sfumato.components.random import Random
from sfumato.components.schedulers.lcm import distillation_schedule
from sfumato.components.training.words import train_words
from sfumato.components.types import Rows
from sfumato.graph.paths import block_at
from sfumato.presets.training.card import write_card
from sfumato.presets.training.consistency import lcm, lcm_lora
from sfumato.presets.training.control import controlnet, t2i_adapter
from sfumato.presets.training.data import freeze
from sfumato.presets.training.data.frozen import joined
from sfumato.presets.training.embedding import embedding
from sfumato.presets.training.events import StepFinished
from sfumato.presets.training.image_prompt import ip_adapter
from sfumato.presets.training.method import Method
from sfumato.presets.training.methods import make_method
from sfumato.presets.training.settings import TrainingSettings
from sfumato.presets.training.trainer import Trainer

from ..presets.image_prompts import vision
from ..presets.support import picture

Load = Callable[..., Graph]
CALL: dict[str, Any] = {"prompt": "a fox", "seed": 3, "height": 32, "width": 32, "num_inference_steps": 2}
PICTURE = picture(rows=32, columns=32)


def batch(method: Method) -> dict[str, Any]:
    """Random values of the inputs that the method needs."""
    generator = torch.Generator().manual_seed(1)
    values = {"prompt": ["a fox", "a cat"]}
    return {
        name: values[name] if name in values else torch.rand(2, 3, 32, 32, generator=generator) for name in method.needs
    }


def stepped(method: Method, steps: int = 2, lr: float = 1e-2) -> list[float]:
    """The losses of some steps."""
    graph, random = method.recipe.bind(method.trained.bindings()), Random.seeded([0, 1])
    parameters = [p for group in method.trained.groups() for p in group.parameters]
    assert {id(p) for p in parameters} == {id(p) for p in method.trained.parameters()}
    optimizer, losses = torch.optim.AdamW(parameters, lr=lr), list[float]()
    for _ in range(steps):
        with sf.gradients():
            out = graph(**batch(method), random=random)
        out.loss.backward()
        assert all(p.grad is not None for p in parameters)
        optimizer.step()
        optimizer.zero_grad()
        method.trained.after_step()
        random = out.random
        losses.append(float(out.loss.detach()))
    return losses


def pixels(pipe: Graph, **inputs: Any) -> torch.Tensor:
    return pipe(**{**CALL, **inputs}, output_type="pt").images


def equal(method: Method, pipe: Graph, loaded: Graph, **inputs: Any) -> None:
    """The sample of the training is the picture of a loaded file, and not that of the preset alone."""
    sample = pixels(method.trained.attached(pipe), **method.draws_with, **inputs)
    assert torch.equal(sample, pixels(loaded, **method.draws_with, **inputs))
    plain = {name: value for name, value in inputs.items() if name in pipe.inputs}
    assert not torch.equal(sample, pixels(pipe, **method.draws_with, **plain))


def fresh(net: Any) -> Any:
    """A loaded model in memory of its own. Products of matrices that a file maps, at any address, round otherwise."""
    return copy.deepcopy(net)


def test_a_control_net(tiny: Load, tmp_path: Path) -> None:
    method = controlnet(tiny(), embedding_widths=(4, 8, 8, 8))
    before = pixels(method.trained.attached(tiny()), control_image=PICTURE)
    assert torch.equal(before, pixels(tiny()))  # its last layers are zero
    stepped(method)
    assert set(method.needs) == {"prompt", "pixels", "control_image"}
    folder = method.trained.save(tmp_path / "net")
    assert tiny(controlnet=folder).nodes == method.trained.attached(tiny()).nodes
    net = fresh(method.trained.load(folder))
    equal(method, tiny(), tiny(controlnet=net), control_image=PICTURE)


def test_a_t2i_adapter(tiny: Load, tmp_path: Path) -> None:
    method = t2i_adapter(tiny())
    stepped(method)
    assert set(method.needs) == {"prompt", "pixels", "control_image"}
    folder = method.trained.save(tmp_path / "net")
    assert tiny(adapter=folder).nodes == method.trained.attached(tiny()).nodes
    net = fresh(method.trained.load(folder))
    equal(method, tiny(), tiny(adapter=net), adapter_image=PICTURE)


@pytest.mark.parametrize("projector", ["linear", "perceiver"])
def test_an_image_prompt(tiny: Load, tmp_path: Path, projector: Any) -> None:
    _, encoder, _ = vision(tmp_path / "image_encoder")
    sizes: Mapping[str, Any] = {} if projector == "linear" else {"inner_width": 64, "layers": 1, "heads": 1}
    method = ip_adapter(tiny(), image_encoder=encoder, projector=projector, drop_images=0.5, config=sizes)
    stepped(method)
    assert set(method.needs) == {"prompt", "pixels"}
    file = method.trained.save(tmp_path / "prompt.safetensors", header={"note": "trained"})
    loaded = tiny(ip_adapter=file)  # it finds the image encoder beside the file
    loaded = loaded.bind(ip_adapter=fresh(method.trained.load(file)), image_encoder=encoder)
    equal(method, tiny(), loaded, ip_adapter_image=PICTURE)


@pytest.mark.parametrize("layout", [None, "kohya"])
def test_words(tiny: Load, tmp_path: Path, layout: Any) -> None:
    method = embedding(tiny(), words="<cat-toy>", vectors=2, initializer="a red cat")
    stepped(method)
    assert method.needs == ("pixels",)
    file = method.trained.save(tmp_path / "toy.safetensors", layout=layout)
    loaded = tiny().with_adapters(sf.load_embedding(file, token=None if layout is None else "<cat-toy>"))
    equal(method, tiny(), loaded, prompt="a <cat-toy> hat")
    equal(method, tiny(), tiny().with_adapters(method.trained.load(file)), prompt="a <cat-toy> hat")


def test_a_lora_that_draws_in_a_few_steps(tiny: Load, tmp_path: Path) -> None:
    method = lcm_lora(tiny(), rank=2)
    stepped(method)
    file = method.trained.save(tmp_path / "lcm.safetensors")
    equal(method, tiny(), tiny().with_adapters(sf.load_adapter(file)))


def test_a_u_net_that_draws_in_a_few_steps(tiny: Load, tmp_path: Path) -> None:
    method = lcm(tiny(), guidance_width=12)
    losses = stepped(method)
    assert losses[0] > 0 and "target_unet" in method.recipe.components
    folder = method.trained.save(tmp_path / "unet")
    assert tiny(unet=folder).nodes == method.trained.attached(tiny()).nodes
    loaded = tiny(unet=fresh(method.trained.load(folder)))
    assert block_at(loaded, "denoise.predict") == PredictDistilled()
    equal(method, tiny(), loaded)


def test_pivotal_tuning_trains_words_and_a_lora(tiny: Load, tmp_path: Path) -> None:
    method = embedding(tiny(), words="<cat-toy>", rank=2, components=["unet", "text_encoder"])
    stepped(method)
    folder = method.trained.save(tmp_path / "pivot")
    parts = sf.load_embedding(folder / "words.safetensors"), sf.load_adapter(folder / "lora.safetensors")
    equal(method, tiny(), tiny().with_adapters(*parts), prompt="a <cat-toy> hat")


def test_several_words_are_in_one_file(tiny: Load, tmp_path: Path) -> None:
    trained = train_words(tiny(), ["<one>", "<two>"], 2, initializer="red")
    file = trained.save(tmp_path / "words.safetensors")
    loaded = [sf.load_embedding(file, token=word) for word in trained.words]
    assert [one.token for one in loaded] == ["<one>", "<two>"]
    both = trained.load(file)
    assert isinstance(both, tuple) and [one.token for one in both] == ["<one>", "<two>"]
    assert all(
        torch.equal(one.vectors[0].inputs, mine.vectors[0].inputs)
        for one, mine in zip(loaded, trained.embeddings(), strict=True)
    )
    with pytest.raises(sf.SaveError, match="<one>, <two>: a file can have several words only in the layout of diff"):
        trained.save(tmp_path / "words.safetensors", layout="kohya")
    with pytest.raises(sf.SaveError, match=r"words.pt: needs a name that ends with .safetensors"):
        trained.save(tmp_path / "words.pt")


def test_words_start_from_words_of_the_vocabulary(tiny: Load) -> None:
    table = tiny().bindings["text_encoder"].load().text_model.embeddings.token_embedding.weight
    tokenizer = tiny().bindings["tokenizer"].load()
    red, cat = tokenizer.encode("red cat")[1:-1]
    three = train_words(tiny(), "<x>", 3, initializer="red cat").rows["text_encoder"]
    assert torch.equal(three, table[[red, cat, red]])
    assert torch.equal(train_words(tiny(), "<red-cat>").rows["text_encoder"], table[[red]])


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"words": []}, r"words: needs words and a number of vectors. Got \[\] and 1."),
        ({"words": "<x>", "components": ["unet"]}, "components: the graph has no text encoder 'unet'. "),
        (
            {"words": "<x>", "initializer": " "},
            "initializer: ' ' has no tokens of text_encoder. Pass initializer= with",
        ),
    ],
)
def test_words_that_cannot_be_trained(tiny: Load, settings: dict[str, Any], text: str) -> None:
    with pytest.raises(sf.ConfigError, match=text):
        train_words(tiny(), **settings)


def test_templates_are_drawn_for_each_row() -> None:
    posterior = Posterior(torch.zeros(64, 4, 2, 2), None)
    drawn, random = DrawPrompts(words="<x>", templates=("a {}", "{}!"))(posterior, Random.seeded([1]))
    assert set(drawn) == {"a <x>", "<x>!"} and random is not None
    with pytest.raises(sf.ConfigError, match=r'needs texts with "{}" for the word, got \'a photo\'.'):
        DrawPrompts(words="<x>", templates=("a photo",))


def test_distillation_jumps_between_steps_of_the_teacher() -> None:
    steps = distillation_schedule(sf.schedulers.DDIMScheduler(), 50)
    assert [step.timestep for step in steps] == [*range(999, 0, -20), 0]
    assert steps[49].next.timestep == 0
    with pytest.raises(
        sf.ConfigError, match="original_inference_steps: needs 1 to 1000, the timesteps of training, got 0"
    ):
        distillation_schedule(sf.schedulers.DDIMScheduler(), 0)
    with pytest.raises(sf.ConfigError, match="FlowMatchEulerDiscreteScheduler has no table of betas"):
        distillation_schedule(sf.schedulers.FlowMatchEulerDiscreteScheduler(), 50)


def test_methods_that_need_a_u_net() -> None:
    with pytest.raises(sf.ConfigError, match="needs a preset with a UNet2DConditionModel, got none"):
        controlnet(sf.load("flux"))
    with pytest.raises(sf.ConfigError, match="needs a preset with a UNet2DConditionModel, got none"):
        lcm_lora(sf.load("flux"))


def test_a_distilled_model_is_no_teacher(tiny: Load) -> None:
    with pytest.raises(sf.ConfigError, match="Consistency distillation needs a U-Net that reads no guidance scale"):
        lcm_lora(tiny("sd-lcm"))


@pytest.mark.parametrize(
    ("name", "settings", "kept"),
    [
        ("controlnet", {"embedding_widths": (4, 8, 8, 8)}, ["positive", "rows", "posterior"]),
        ("ip_adapter", {"image_encoder": "image_encoder"}, ["positive", "rows", "posterior", "images"]),
        ("lcm", {"guidance_width": 12}, ["positive", "rows", "match", "negative", "posterior"]),
    ],
)
def test_training_with_kept_values_is_training_without_them(
    tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, settings: dict[str, Any], kept: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    vision(tmp_path / "image_encoder")
    for folder in ("data", "controls"):
        (tmp_path / folder).mkdir()
        for i in range(3):
            picture(i + len(folder), 32, 32).save(tmp_path / folder / f"{i}.png")
    data = sf.load_data(sf.data.Source(tmp_path / "data", prompt="a fox", controls=tmp_path / "controls"), size=32)
    losses: list[list[float]] = []
    for keeps in (False, True):
        method = make_method(name, tiny(), settings)
        batches: Any = data.batches(2, recipe=method.recipe)
        graph = method.recipe
        if keeps:
            frozen = freeze(graph, tuple(method.trained.bindings()), sf.memo())
            assert frozen.graph is not None and list(frozen.graph.nodes) == kept
            batches, graph = frozen.batches(batches), frozen.recipe
        chosen = TrainingSettings(steps=3, learning_rate=1e-3, trackers=())
        events = [*Trainer(graph, method.trained, batches, chosen).stream()]
        losses.append([event.loss for event in events if isinstance(event, StepFinished)])
    assert len(losses[0]) == 3
    torch.testing.assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=0, atol=1e-6)


def test_rows_of_kept_values_are_counted_together() -> None:
    """Control pictures are read for the rows of a batch, each of which was kept alone."""
    assert joined([Rows(1, 1)] * 3) == Rows(3, 1)


def test_sdxl_has_the_methods_too(xl: Load, tmp_path: Path) -> None:
    """Its U-Net reads a pooled prompt and sizes, and it has two text encoders."""
    made = {
        "control_image": controlnet(xl(), embedding_widths=(4, 8, 8, 8)),
        "words": embedding(xl(), words="<cat-toy>", initializer="cat"),
        "lcm": lcm_lora(xl(), rank=1),
    }
    for method in made.values():
        stepped(method, steps=1)
    assert set(made["words"].trained.state_dict()) == {"rows.text_encoder", "rows.text_encoder_2"}
    file = made["words"].trained.save(tmp_path / "<cat-toy>.safetensors")
    equal(made["words"], xl(), xl().with_adapters(sf.load_embedding(file)), prompt="a <cat-toy> hat")


def test_diffusers_reads_the_folders_of_nets(tiny: Load, diffusers: Any, tmp_path: Path) -> None:
    made = {
        "ControlNetModel": controlnet(tiny(), embedding_widths=(4, 8, 8, 8)),
        "T2IAdapter": t2i_adapter(tiny()),
        "UNet2DConditionModel": lcm(tiny(), guidance_width=12),
    }
    for name, method in made.items():
        folder = method.trained.save(tmp_path / name)
        theirs = getattr(diffusers, name).from_pretrained(folder).state_dict()
        mine = method.trained.load(folder).state_dict()
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_the_card_of_a_net_says_how_it_is_used(tiny: Load, tmp_path: Path) -> None:
    method = controlnet(tiny(), embedding_widths=(4, 8, 8, 8))
    (net,) = method.trained.bindings().values()
    write_card(
        tmp_path, method="controlnet", model="owner/name", file=tmp_path / "edges", trained=net, recipe=method.recipe,
        settings={}, samples={tmp_path / "0-0.png": "a fox"}, draws_with={"num_inference_steps": 4},
    )  # fmt: skip
    text = (tmp_path / "README.md").read_text()
    assert "pipe = sf.load('owner/name', controlnet='edges')\n" in text
    assert "pipe(prompt='a fox', control_image='control.png', num_inference_steps=4).images[0]\n" in text
