"""The table of methods: each makes a recipe and what it trains, and checks its settings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import sfumato as sf
from sfumato import Graph
from sfumato.blocks.train.losses import PseudoHuber
from sfumato.components.random import Random
from sfumato.presets.training.class_pictures import draw_class_pictures
from sfumato.presets.training.methods import make_method, settings_of

from ..presets.support import counted

Load = Callable[..., Graph]
BATCH: dict[str, Any] = {
    "pixels": torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)),
    "prompt": ["a fox", "an apple"],
    "is_prior": torch.tensor([False, True]),
    "mask": torch.ones(2, 1, 32, 32),
}


def loss_of(name: str, pipe: Graph, **settings: Any) -> torch.Tensor:
    """The loss of a first step, after its gradients have reached what is trained."""
    method = make_method(name, pipe, settings)
    graph = method.recipe.bind(**method.trained.bindings())
    assert set(method.needs) <= BATCH.keys()
    with sf.gradients():
        out = graph(**{key: value for key, value in BATCH.items() if key in graph.inputs}, random=Random.seeded([1]))
    out.loss.backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in method.trained.parameters())
    return out.loss.detach()


@pytest.mark.parametrize("name", ["lora", "dreambooth", "finetune", "unconditional"])
def test_a_method_starts_with_the_loss_of_the_model(tiny: Load, name: str) -> None:
    settings = {"prior_weight": 0.0} if name == "dreambooth" else {}
    prompt = {"prompt": ""} if name == "unconditional" else {}
    expected = make_method("lora", tiny(), {}).recipe(
        pixels=BATCH["pixels"], random=Random.seeded([1]), **{"prompt": BATCH["prompt"], **prompt}
    )
    torch.testing.assert_close(loss_of(name, tiny(), **settings), expected.loss)


def test_an_unconditional_recipe_and_a_decoder_need_pictures_alone(tiny: Load) -> None:
    assert make_method("unconditional", tiny(), {}).needs == ("pixels",)
    assert make_method("decoder", tiny(), {}).needs == ("pixels",)


def test_a_decoder_learns_to_reconstruct_and_latents_stay(tiny: Load) -> None:
    pipe = tiny()
    method = make_method("decoder", pipe, {"loss": "mae"})
    graph = method.recipe.bind(**method.trained.bindings())
    optimizer = torch.optim.AdamW(method.trained.parameters(), lr=1e-2)
    losses: list[float] = []
    for _ in range(6):
        with sf.gradients():
            loss = graph(pixels=BATCH["pixels"], random=Random.seeded([1])).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    drawn = method.trained.attached(pipe).bindings["vae"]
    assert torch.equal(drawn.encoder.conv_in.weight, pipe.bindings["vae"].load().encoder.conv_in.weight)


def test_choices_change_the_blocks_of_a_recipe(tiny: Load) -> None:
    settings: dict[str, Any] = {
        "timesteps": {"name": "shifted", "shift": 2.0}, "weight": "min_snr", "loss": PseudoHuber(huber_c=0.1),
        "noise_offset": 0.1, "input_perturbation": 0.1, "masked": True, "compare": "prediction",
    }  # fmt: skip
    graph = make_method("lora", tiny(), {**settings, "rank": 2}).recipe
    names = {name: type(block).__name__ for name, block in graph.nodes.items()}
    assert names["timesteps"] == "DrawShifted" and names["weight"] == "WeightByMinSNR"
    assert names["loss"] == "PseudoHuber" and graph["timesteps"].config()["shift"] == 2.0
    assert [name for name in graph.nodes if name in ("noise", "offset", "perturb", "add_noise", "loss_mask")] == [
        "noise", "offset", "perturb", "add_noise", "loss_mask"
    ]  # fmt: skip
    loss_of("lora", tiny(), **settings)
    assert type(make_method("lora", tiny(), {"compare": "clean"}).recipe["clean"]).__name__ == "CompareClean"


@pytest.mark.parametrize(
    ("name", "settings", "text"),
    [
        ("lorra", {}, "'lorra' is no method of training. Did you mean 'lora'? There are: "),
        ("lora", {"rnak": 4}, "The settings of 'lora': rnak is no setting of 'lora'. Did you mean 'rank'? There are: "),
        ("lora", {"weight": "minsnr"}, "weight: 'minsnr' is no choice. Did you mean 'min_snr'? There are: none, "),
        ("lora", {"loss": {"name": "huber", "c": 1}}, "loss: "),
        ("lora", {"rank": "big", "dropout": "much"}, "The settings of 'lora': 2 problems\n  rank "),
        ("embedding", {"vectors": 2}, "The settings of 'embedding': words is needed. Pass words=."),
        ("dreambooth", {"prior_weight": 0, "class_prompt": "a dog"}, "class_prompt: with prior_weight=0 no pictures"),
    ],
)
def test_wrong_settings_say_what_is_wrong(tiny: Load, name: str, settings: dict[str, Any], text: str) -> None:
    with pytest.raises(sf.ConfigError) as error:
        make_method(name, tiny(), settings)
    assert str(error.value).startswith(text), str(error.value)


def test_settings_have_names_and_types() -> None:
    assert settings_of("lora")["rank"] is int
    assert {"weight", "prior_weight", "class_prompt"} <= settings_of("dreambooth").keys()
    assert "weight" not in settings_of("decoder")


def pixels_in(folder: Path) -> dict[str, bytes]:
    return {file.name: Image.open(file).tobytes() for file in folder.iterdir()}


def test_pictures_of_a_class_are_drawn_once(tiny: Load, tmp_path: Path) -> None:
    pipe, inputs = tiny(), {"num_inference_steps": 1, "height": 32, "width": 32}
    with counted(pipe) as counts:
        place = draw_class_pictures(pipe, "a dog", 5, tmp_path, inputs)
        first = pixels_in(place)
        assert sorted(first) == [f"0000{number}.png" for number in range(5)]
        drawn = counts.unet
        (place / "00003.png").unlink()
        assert draw_class_pictures(pipe, "a dog", 5, tmp_path, inputs) == place
        assert counts.unet == drawn + 1
        assert pixels_in(place) == first
        assert draw_class_pictures(pipe, "a dog", 5, tmp_path, inputs) == place
        assert counts.unet == drawn + 1
    assert draw_class_pictures(pipe, "a cat", 0, tmp_path, inputs) != place
    other = pipe.replace("denoise.guider", sf.guiders.ClassifierFreeGuidance(guidance_scale=2.0))
    assert draw_class_pictures(other, "a dog", 0, tmp_path, inputs) != place
    assert draw_class_pictures(tiny("sd2"), "a dog", 0, tmp_path, inputs) != place
    assert draw_class_pictures(tiny(), "a dog", 0, tmp_path, inputs) == place


def test_dreambooth_adds_pictures_of_the_class_to_the_data(tiny: Load, tmp_path: Path) -> None:
    inputs = {"num_inference_steps": 1, "height": 32, "width": 32}
    method = make_method("dreambooth", tiny(), {"class_prompt": "a dog", "class_pictures": 2, "class_inputs": inputs})
    (source,) = method.more_data(tmp_path)
    assert source.is_prior and source.prompt == "a dog"
    assert len(list(Path(source.data).iterdir())) == 2
    assert "is_prior" in method.needs


@pytest.mark.parametrize(
    ("family", "components"),
    [
        ("xl", ("unet", "text_encoder", "text_encoder_2")),
        ("sd3", ("transformer", "text_encoder", "text_encoder_2", "text_encoder_3")),
        ("flux", ("transformer", "text_encoder", "text_encoder_2")),
        ("pixart", ("transformer", "text_encoder")),
    ],
)
def test_adapters_of_denoisers_and_text_encoders_learn(
    request: pytest.FixtureRequest, family: str, components: tuple[str, ...]
) -> None:
    method = make_method("lora", request.getfixturevalue(family)(), {"components": components, "rank": 2})
    graph = method.recipe.bind(**method.trained.bindings())
    more = {"max_sequence_length": 24} if family != "xl" else {}
    with sf.gradients():
        out = graph(pixels=BATCH["pixels"], prompt=BATCH["prompt"], random=Random.seeded([1, 2]), **more)
    out.loss.backward()
    learnt = {
        name.split(".")[0] for name, p in method.trained.named_parameters() if p.grad is not None and p.grad.any()
    }
    assert learnt == {*components}
