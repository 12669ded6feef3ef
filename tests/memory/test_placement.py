"""`device_map`: components go where it says, and values follow."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sfumato as sf
from sfumato.blocks.denoise.passes import asking
from sfumato.components.conditioning import SDXLConditioning
from sfumato.components.memory.placement import balanced
from sfumato.components.schedulers.flow_match import FlowMatchEulerDiscreteScheduler
from sfumato.components.types import Pass
from sfumato.graph import ConfigError
from sfumato.graph.ports import ALONE

from .conftest import GPU, Simulated, draw


def test_components_lie_where_the_map_says_and_the_picture_is_the_same(simulated: Simulated) -> None:
    manager = sf.ComponentsManager(mover=simulated)
    pipe = sf.load("emoji", manager=manager, device_map={"unet": GPU, "text_encoder": "cpu"})
    plain = sf.load("emoji", manager=sf.ComponentsManager())
    assert torch.equal(draw(pipe), draw(plain))
    where = {row.name: row.where for row in manager.summary()}
    assert (where["unet"], where["text_encoder"], where["vae"]) == (GPU, "cpu", "cpu")


def test_what_the_map_does_not_name_goes_where_device_says() -> None:
    pipe = sf.load("emoji", manager=sf.ComponentsManager(), device="cuda:1", device_map={"vae": GPU})
    assert {name: pipe.bindings[name].device for name in ("unet", "vae")} == {"unet": "cuda:1", "vae": GPU}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"unett": GPU}, "device_map: no component 'unett'. Did you mean 'unet'?"),
        ({"unet": "gpu"}, "device_map: unet came as 'gpu'; wanted a device such as 'cuda:0' or 'cpu'."),
        ("cuda", "device_map: came 'cuda'; wanted 'balanced', or a device for each component"),
    ],
)
def test_a_map_that_makes_no_sense_is_refused(asked: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sf.load("emoji", manager=sf.ComponentsManager(), device_map=asked)
    assert said in str(caught.value)


def test_balanced_takes_the_largest_first_and_leaves_on_the_cpu_what_fits_nowhere() -> None:
    assert balanced({"vae": 1, "unet": 5, "t5": 9}, {"cuda:0": 6, "cuda:1": 4}) == {
        "t5": "cpu",
        "unet": "cuda:0",
        "vae": "cuda:1",
    }


@pytest.mark.parametrize("asked", ["balanced", "auto"])
def test_by_size_models_go_where_there_is_room(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfumato.components.memory.placement._free", lambda: {"cuda:0": 30_000_000, "cuda:1": 6 << 20})
    pipe = sf.load("emoji", manager=sf.ComponentsManager(), device_map=asked)
    found = {name: pipe.bindings[name].device for name in ("unet", "vae", "text_encoder", "scheduler")}
    assert found == {"unet": "cuda:0", "vae": "cuda:1", "text_encoder": "cpu", "scheduler": "cpu"}


def test_a_denoiser_elsewhere_gets_all_of_a_pass_and_its_answer_comes_back() -> None:
    model = nn.Linear(1, 1, device="meta")  # a device that is not the CPU, and there on every machine
    text = SDXLConditioning(torch.ones(1, 2, 3), torch.ones(1, 3), torch.ones(1, 6))
    step = FlowMatchEulerDiscreteScheduler().steps(2)[0]
    tensor = torch.ones(1, 4, 2, 2)
    one = Pass(tensor, step, text, channels=(tensor,), references=(tensor,), residuals=({"mid": (tensor,)},))
    seen: list[Pass] = []

    def forward(model: nn.Module, passes: Sequence[Pass]) -> Tensor:
        seen.extend(passes)
        return torch.full((len(passes), 4, 2, 2), 5.0)

    predict = asking(model, forward, "together", ALONE)
    first, second = predict([one])[0], predict([replace(one, latents=tensor * 2)])[0]
    assert first.device.type == second.device.type == "cpu"
    for asked in seen:
        words = asked.conditioning
        assert isinstance(words, SDXLConditioning)
        brought = [asked.latents, asked.step.t, words.tokens, words.pooled, words.time_ids]
        brought += [*asked.channels, *asked.references, *asked.residuals[0]["mid"]]
        assert {t.device.type for t in brought} == {"meta"}
    assert seen[0].conditioning is seen[1].conditioning  # it travels once, not in every turn
