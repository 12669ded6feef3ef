"""`device_map`: components go where it says, and values follow."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sfumato as sf
from sfumato.blocks.denoise.denoiser import make_predict
from sfumato.components.conditioning import SDXLConditioning
from sfumato.components.memory.estimate import estimated_bytes
from sfumato.components.memory.mover import Mover
from sfumato.components.memory.placement import balanced
from sfumato.components.memory.policy import OutOfBudget, Residency, moves_to_fit
from sfumato.components.memory.splitting import split_by_paths
from sfumato.components.memory.tensors import total_bytes
from sfumato.components.models.constants import Constants
from sfumato.components.models.unet_2d_condition import UNet2DConditionModel
from sfumato.components.schedulers.flow_match import FlowMatchEulerDiscreteScheduler
from sfumato.components.spec import ComponentSpec
from sfumato.components.types import Pass
from sfumato.graph import ConfigError
from sfumato.graph.ports import ALONE

from .conftest import EMBEDDED, GPU, Simulated, draw
from .simulated import ONE, TWO, devices


@pytest.fixture(autouse=True, scope="module")
def every_device() -> Iterator[None]:
    """This machine has every device, as far as a manager asks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sfumato.components.memory.mover.check_device", str)  # any function that refuses nothing
        yield


def test_components_are_on_the_devices_of_the_map_and_the_picture_is_the_same(simulated: Simulated) -> None:
    manager = sf.ComponentsManager(mover=simulated)
    pipe = sf.load("emoji", manager=manager, device_map={"unet": GPU, "text_encoder": "cpu"})
    plain = sf.load("emoji", manager=sf.ComponentsManager())
    assert torch.equal(draw(pipe), draw(plain))
    where = {row.name: row.where for row in manager.summary()}
    assert (where["unet"], where["text_encoder"], where["vae"]) == (GPU, "cpu", "cpu")


def test_components_that_the_map_does_not_name_are_on_device() -> None:
    pipe = sf.load("emoji", manager=sf.ComponentsManager(), device="cuda:1", device_map={"vae": GPU})
    assert {name: pipe.bindings[name].device for name in ("unet", "vae")} == {"unet": "cuda:1", "vae": GPU}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"unett": GPU}, "device_map: no component 'unett'. Did you mean 'unet'?"),
        ({"unet": "gpu"}, "device_map of unet: torch knows no device 'gpu'. Write 'cuda' for an NVIDIA or AMD GPU"),
        ("cuda", "device_map: needs 'balanced', or a device for each component"),
    ],
)
def test_an_invalid_device_map_is_refused(asked: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sf.load("emoji", manager=sf.ComponentsManager(), device_map=asked)
    assert said in str(caught.value)


def test_balanced_places_the_largest_first_and_leaves_on_the_cpu_what_fits_nowhere() -> None:
    assert balanced({"vae": 1, "unet": 5, "t5": 9}, {"cuda:0": 6, "cuda:1": 4}) == {
        "t5": "cpu",
        "unet": "cuda:0",
        "vae": "cuda:1",
    }


@pytest.mark.parametrize("asked", ["balanced", "auto"])
def test_models_are_placed_by_size_where_there_is_room(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "sfumato.components.memory.placement._free_memory", lambda: {"cuda:0": 30_000_000, "cuda:1": 6 << 20}
    )
    pipe = sf.load("emoji", manager=sf.ComponentsManager(), device_map=asked)
    found = {name: pipe.bindings[name].device for name in ("unet", "vae", "text_encoder", "scheduler")}
    assert found == {"unet": "cuda:0", "vae": "cuda:1", "text_encoder": "cpu", "scheduler": "cpu"}


def test_a_pass_is_copied_to_the_denoisers_device_and_its_prediction_back() -> None:
    model = nn.Linear(1, 1, device="meta")  # a device that is not the CPU, and there on every machine
    text = SDXLConditioning(torch.ones(1, 2, 3), torch.ones(1, 3), torch.ones(1, 6))
    step = FlowMatchEulerDiscreteScheduler().steps(2)[0]
    tensor = torch.ones(1, 4, 2, 2)
    one = Pass(tensor, step, text, channels=(tensor,), references=(tensor,), residuals=({"mid": (tensor,)},))
    seen: list[Pass] = []

    def forward(model: nn.Module, passes: Sequence[Pass], constants: Constants) -> Tensor:
        seen.extend(passes)
        return torch.full((len(passes), 4, 2, 2), 5.0)

    predict = make_predict(model, forward, "together", ALONE)
    first, second = predict([one])[0], predict([replace(one, latents=tensor * 2)])[0]
    assert first.device.type == second.device.type == "cpu"
    for asked in seen:
        words = asked.conditioning
        assert isinstance(words, SDXLConditioning)
        brought = [asked.latents, asked.step.t, words.tokens, words.pooled, words.time_ids]
        brought += [*asked.channels, *asked.references, *asked.residuals[0]["mid"]]
        assert {t.device.type for t in brought} == {"meta"}
    assert seen[0].conditioning is seen[1].conditioning  # it travels once, not in every turn


# ------------------------------------------------------------------------------------------------ on several devices
CUT = {"": ONE, "up_blocks": TWO}


def spec_of(name: str) -> ComponentSpec:
    return sf.load("emoji").bindings[name].spec


@pytest.fixture(scope="module")
def whole() -> Tensor:
    """The picture that one simulated device gives."""
    with devices(), torch.no_grad():
        return draw(sf.load("emoji", manager=sf.ComponentsManager(device=ONE))).to("cpu")


def test_a_pipeline_of_split_components_gives_the_bits_of_one_device(whole: Tensor) -> None:
    manager = sf.ComponentsManager(device=ONE)
    asked = {"unet": CUT, "vae": {"": TWO, "decoder.up_blocks": ONE}, "text_encoder": TWO}
    with devices():
        pipe = sf.load("emoji", manager=manager, device_map=asked)
        assert torch.equal(draw(pipe).to("cpu"), whole)
        rows = {row.name: (row.device, row.where) for row in manager.summary()}
        both, turned = f"{ONE} + {TWO}", f"{TWO} + {ONE}"  # the first is where it takes and gives values
        assert rows["unet"] == (both, both) and rows["vae"] == (turned, turned) and rows["text_encoder"] == (TWO, TWO)
        assert both in repr(manager) and both in repr(pipe.bindings["unet"])
        unet: Any = manager.get("unet")
        assert {p.device == torch.device(TWO) for n, p in unet.named_parameters() if n.startswith("up_b")} == {True}


def test_weights_are_read_straight_to_their_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    with devices() as moves:
        monkeypatch.delattr(Mover, "move")  # what moved them would fail
        manager = sf.ComponentsManager(device=ONE)
        model = sf.load_component(str(EMBEDDED / "unet"), manager=manager, device_map=CUT)
        assert {(source, target) for source, target, _ in moves} == {("cpu", ONE), ("cpu", TWO)}
        assert sum(shape.numel() for _, _, shape in moves) == sum(p.numel() for p in model.parameters())
        assert sf.load_component(str(EMBEDDED / "unet"), manager=manager, device_map=CUT) is model
        other = sf.load_component(str(EMBEDDED / "unet"), manager=manager, device_map={"": ONE, "down_blocks": TWO})
        assert other is not model and len(manager) == 2
        assert str(sf.load_component(str(EMBEDDED / "unet"), manager=manager, device_map={"": TWO}).device) == TWO


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"up_block": ONE, "": TWO}, "which has no such modules.\n  'up_block': Did you mean 'up_blocks'?"),
        ({"up_blocks.0.resnet": ONE, "": TWO}, "'up_blocks.0.resnet': Did you mean 'up_blocks.0.resnets'?"),
        (
            {"up_blocks": ONE},
            "device_map: unet needs a device for each module. Got none for conv_in, time_embedding.linear_1, ",
        ),
        ({"up_blocks": ONE}, f"or a device for all that is not named: {{'': {ONE!r}}}."),
        (
            {"": ONE, "up_blocks": "gpu"},
            "device_map of unet.up_blocks: torch knows no device 'gpu'. Write 'cuda' for an NVIDIA or AMD GPU",
        ),
    ],
)
def test_an_invalid_map_of_modules_is_refused(asked: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sf.load("emoji", manager=sf.ComponentsManager(), device_map={"unet": asked})
    assert said in str(caught.value)


def test_components_without_modules_or_read_as_a_whole_cannot_be_split() -> None:
    with pytest.raises(ConfigError, match="scheduler is a DDIMScheduler, which has no weights, so it needs one device"):
        sf.load("emoji", manager=sf.ComponentsManager(), device_map={"scheduler": {"": ONE}})
    quantization = {"unet": {"quant_method": "quanto", "weights_dtype": "int8"}}
    with pytest.raises(ConfigError, match="unet is quantized by quanto, which is read as a whole, so it needs one"):
        sf.load("emoji", manager=sf.ComponentsManager(), device_map={"unet": CUT}, quantization=quantization)


def test_a_shared_tensor_needs_one_device() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    with pytest.raises(ConfigError, match=r"net's 0 and 1 share one tensor, so they need one device\. Got lazy:0 and"):
        split_by_paths("net", model, {"0": ONE, "1": TWO}, torch.float32)


def test_balanced_splits_a_component_larger_than_each_device_between_its_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = estimated_bytes(spec_of("unet"), "float32")
    rooms = {ONE: size * 2 // 3, TWO: size * 2 // 3}
    monkeypatch.setattr("sfumato.components.memory.placement._free_memory", lambda: rooms)
    pipe = sf.load("emoji", manager=sf.ComponentsManager(), device_map="balanced")
    cut = pipe.bindings["unet"].device_map
    assert cut is not None and sum(share for _, share in cut.sizes) == size
    assert all(share <= rooms[device] for device, share in cut.sizes)
    shares = [share / rooms[device] for device, share in cut.sizes]
    assert max(shares) - min(shares) < 0.15  # as even as whole blocks can be
    model = UNet2DConditionModel.from_pretrained(EMBEDDED / "unet")
    lists = {path for path, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    assert {path.rpartition(".")[0] for path, _ in cut.entries if path} <= lists
    small = {ONE: size // 3, TWO: size // 3}
    monkeypatch.setattr("sfumato.components.memory.placement._free_memory", lambda: small)
    assert sf.load("emoji", manager=sf.ComponentsManager(), device_map="balanced").bindings["unet"].device == "cpu"


def test_one_component_is_split_by_the_room_that_the_others_leave(
    monkeypatch: pytest.MonkeyPatch, whole: Tensor
) -> None:
    monkeypatch.setattr("sfumato.components.memory.placement._free_memory", lambda: {ONE: 30 << 20, TWO: 15 << 20})
    with devices():
        pipe = sf.load("emoji", manager=sf.ComponentsManager(device=ONE), device_map={"unet": "auto", "vae": TWO})
        shares = dict(pipe.bindings["unet"].device_map.sizes)
        vae = estimated_bytes(spec_of("vae"), "float32")
        parts = shares[ONE] / (30 << 20), shares[TWO] / ((15 << 20) - vae)
        assert 0 < parts[1] <= 1 and abs(parts[0] - parts[1]) < 0.3  # as even as whole blocks can be
        assert torch.equal(draw(pipe).to("cpu"), whole)


def test_the_budget_of_each_device_counts_and_a_split_component_leaves_all_devices_together(whole: Tensor) -> None:
    with devices():
        pipe = sf.load("emoji", device_map={"unet": CUT}, manager=(m := sf.ComponentsManager(device=ONE)))
        draw(pipe)
        shares = dict(pipe.bindings["unet"].device_map.sizes)
        facts = {fact.name: fact for fact in m._memory.inventory.residents()}
        assert {d: total_bytes([facts["unet"].parts_on(d)]) for d in (ONE, TWO)} == shares
        # Beside its share of the first device there is no room for the VAE.
        manager = sf.ComponentsManager({ONE: shares[ONE] + (1 << 20), TWO: shares[TWO]}, device=ONE)
        pipe = sf.load("emoji", manager=manager, device_map={"unet": CUT})
        assert torch.equal(draw(pipe).to("cpu"), whole)
        rows = {row.name: row for row in manager.summary()}
        assert rows["unet"].where == "cpu" and rows["unet"].device == f"{ONE} + {TWO}" and rows["vae"].where == ONE
        assert torch.equal(draw(pipe).to("cpu"), whole)  # it comes back, each part to its place
        tight = sf.ComponentsManager({TWO: shares[TWO] - 1}, device=ONE)
        with pytest.raises(sf.LoadError, match=rf"memory budget of {TWO} is .*: unet"):
            draw(sf.load("emoji", manager=tight, device_map={"unet": CUT}))


def test_a_split_component_cannot_be_offloaded_and_to_puts_it_on_one_device(whole: Tensor) -> None:
    with devices():
        manager = sf.ComponentsManager({ONE: "100MB", TWO: "100MB"}, device=ONE)
        pipe = sf.load("emoji", manager=manager, device_map={"unet": CUT})
        draw(pipe)
        with pytest.raises(ConfigError, match=f"unet lies on {ONE} .* {TWO} by its device_map, so it cannot be kept"):
            manager.offload("unet", by="blocks")
        assert len([move for move in manager.plan() if move.name == "unet"]) == 1
        manager.to("unet", device=TWO)
        assert torch.equal(draw(pipe).to("cpu"), whole)
        assert {row.name: row.where for row in manager.summary()}["unet"] == TWO
        streaming = sf.ComponentsManager(device=ONE)
        streaming.offload("*", by="leaves")
        with pytest.raises(ConfigError, match="give it one device"):
            draw(sf.load("emoji", manager=streaming, device_map={"unet": CUT}))


def test_a_component_passed_to_load_is_on_the_device_of_the_map() -> None:
    pipe = sf.load("emoji", manager=sf.ComponentsManager(), unet=spec_of("unet"), device_map={"unet": CUT, "vae": TWO})
    assert str(pipe.bindings["unet"].device_map) == f"{ONE} + {TWO}" and pipe.bindings["vae"].device == TWO


def test_a_split_component_makes_room_on_each_device_and_leaves_all_together() -> None:
    cut = Residency("cut", "cut", ONE, {"p": 1}, other_parts={TWO: {"q": 5}})
    other = Residency("other", "other", TWO, {"r": 5})
    limit = {ONE: 9, TWO: 5}.get
    assert [(move.key, move.source, move.target) for move in moves_to_fit(cut, [other], limit)] == [
        ("other", TWO, "cpu")
    ]
    (move,) = moves_to_fit(other, [cut], limit)
    assert (move.key, move.source, move.target, move.bytes) == ("cut", f"{ONE} + {TWO}", "cpu", 6)
    with pytest.raises(OutOfBudget) as short:
        moves_to_fit(cut, [replace(other, leased=True)], limit)
    assert (short.value.device, short.value.needed) == (TWO, 10)
