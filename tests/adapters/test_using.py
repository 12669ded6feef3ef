"""Adapters in calls and graphs, on the embedded model."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import sfumato as sf
from sfumato import Adapter, ConfigError, Graph, InputError
from sfumato.blocks.denoise.unet import PredictNoise
from sfumato.components.adapters.reading import adapter_of
from sfumato.components.models.views import shallow_copy, view
from sfumato.components.types import Pass


@pytest.fixture(scope="module")
def pipe() -> Graph:
    return sf.load("emoji").only("latents")


def lora(model: nn.Module, prefix: str, seed: int, ends: tuple[str, ...], size: float) -> dict[str, Tensor]:
    """Random LoRA tensors of rank 2 for the layers with these names, in PEFT's names."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for name, layer in model.named_modules():
        if name.endswith(ends) and isinstance(layer, nn.Linear):
            found[f"{prefix}.{name}.lora_A.weight"] = torch.randn(2, layer.in_features, generator=generator) * size
            found[f"{prefix}.{name}.lora_B.weight"] = torch.randn(layer.out_features, 2, generator=generator) * size
    return found


@pytest.fixture(scope="module")
def adapters(pipe: Graph, tmp_path_factory: pytest.TempPathFactory) -> tuple[Adapter, Adapter]:
    """One for the U-Net alone, and one for the text encoder too."""
    folder = tmp_path_factory.mktemp("adapters")
    unet, text = (pipe.bindings[name].load() for name in ("unet", "text_encoder"))
    one = lora(unet, "unet", 1, ("to_q", "to_v"), 0.2)
    other = lora(unet, "unet", 2, ("to_k", "proj_in"), 0.2) | lora(text, "text_encoder", 3, ("q_proj", "fc1"), 0.2)
    for name, tensors in (("one", one), ("other", other)):
        save_file(tensors, folder / f"{name}.safetensors")
    return sf.load_adapter(folder / "one.safetensors"), sf.load_adapter(folder / "other.safetensors")


def latents(pipe: Graph, prompt: str | list[str] = "a red apple", **more: Any) -> Tensor:
    return pipe(prompt=prompt, **{"num_inference_steps": 2, "seed": 1, **more}).latents


def _latents(pipe: Graph, adapters: list[Adapter]) -> Tensor:
    return latents(pipe, adapters=adapters)


def weights_hash(pipe: Graph) -> str:
    total = hashlib.sha256()
    for name in ("unet", "text_encoder"):
        for key, tensor in sorted(pipe.bindings[name].load().state_dict().items()):
            total.update(key.encode() + tensor.numpy().tobytes())
    return total.hexdigest()


def test_a_call_and_a_graph_give_the_same(pipe: Graph, adapters: tuple[Adapter, Adapter]) -> None:
    one, other = adapters
    called = latents(pipe, adapters=[one, other])
    assert torch.equal(called, latents(pipe.with_adapters(one, other)))
    assert torch.allclose(called, latents(pipe.with_adapters(one).with_adapters(other)), atol=1e-6)
    assert torch.allclose(called, latents(pipe, adapters=[other, one]), atol=1e-5)
    assert (called - latents(pipe)).abs().max() > 0.05


def test_strength_zero_is_the_plain_graph(pipe: Graph, adapters: tuple[Adapter, Adapter]) -> None:
    assert torch.equal(latents(pipe), latents(pipe, adapters=[adapters[0].scaled(0)]))


def test_strengths_are_set_by_name(pipe: Graph, adapters: tuple[Adapter, Adapter]) -> None:
    one, other = adapters
    both = pipe.with_adapters(one, other)
    assert torch.equal(latents(both, adapters={"one": 0.6, "other": 0.3}),
                       latents(pipe, adapters=[one.scaled(0.6), other.scaled(0.3)]))  # fmt: skip
    assert torch.equal(latents(both), latents(pipe, adapters=[one, other]))  # a call changes nothing


def test_strengths_by_component(pipe: Graph, adapters: tuple[Adapter, Adapter]) -> None:
    other = adapters[1]
    no_text = latents(pipe, adapters=[other.scaled(text_encoder=0.0)])
    no_unet = latents(pipe, adapters=[other.scaled(unet=0.0)])
    everything = latents(pipe, adapters=[other])
    assert len({t.sum().item() for t in (no_text, no_unet, everything, latents(pipe))}) == 4


def test_a_merged_model_gives_the_same(pipe: Graph, adapters: tuple[Adapter, Adapter]) -> None:
    """The dense sum W + B A in float32, within 1e-5 of the range of the latents."""
    one = adapters[0]
    unet = pipe.bindings["unet"].load()
    merged = type(unet).from_config(unet.to_config())
    state = {k: v.clone() for k, v in unet.state_dict().items()}
    for named in one.patches:
        key = named.body.removeprefix("unet.") + ".weight"
        state[key] += named.patch.difference(state[key])
    merged.load_state_dict(state)
    expected = latents(pipe.bind(unet=merged.eval().requires_grad_(False)))
    assert (latents(pipe, adapters=[one]) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_merged_models_give_the_same_and_leave_the_originals(pipe: Graph, adapters: tuple[Adapter, Adapter]) -> None:
    """Within 1e-5 of the range of the latents; linear layers, and a convolution with its bias."""
    one, other = adapters
    unet = pipe.bindings["unet"].load()
    conv = {"unet.conv_in.diff": torch.full_like(unet.conv_in.weight, 0.01),
            "unet.conv_in.diff_b": torch.full_like(unet.conv_in.bias, 0.1)}  # fmt: skip
    whole = adapter_of(conv.items(), name="whole", source="made here").scaled(0.5)
    before = weights_hash(pipe)
    attached = pipe.with_adapters(one.scaled(0.7), other, whole)
    expected = latents(attached)
    assert (latents(attached.merged()) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (latents(attached) - latents(pipe)).abs().max() > 0.05
    assert attached.merged("bfloat16").bindings["unet"].dtype == torch.bfloat16
    assert weights_hash(pipe) == before


def test_what_cannot_be_merged_is_refused(pipe: Graph, adapters: tuple[Adapter, Adapter]) -> None:
    with pytest.raises(ConfigError, match=r"the graph has no adapters\. Write pipe\.with_adapters"):
        pipe.merged()
    with pytest.raises(ConfigError, match=r"the adapters of unet differ between prompts or steps"):
        pipe.with_adapters(adapters[0].during(0, 0.5)).merged()
    with pytest.raises(ConfigError, match=r"needs a floating dtype"):
        pipe.with_adapters(adapters[0]).merged("int8")


def test_each_prompt_of_a_batch_may_have_its_own_adapters(pipe: Graph, adapters: tuple[Adapter, Adapter]) -> None:
    """Four rows with four sets equal four single runs within 1e-5, and one forward of the U-Net a step serves them."""
    one, other = adapters
    sets = [[one], [one.scaled(0.5), other], [], [other.scaled(2.0)]]
    prompts = ["a red apple", "a blue fish", "a green tree", "a cat"]
    counted = _Counted(pipe.bindings["unet"].load())
    together = latents(pipe.bind(unet=counted.model), prompts, seed=[1, 2, 3, 4], negative_prompt="bad", adapters=sets)
    assert counted.calls == 2  # one a step
    for i, (prompt, own) in enumerate(zip(prompts, sets, strict=True)):
        alone = latents(pipe, prompt, seed=i + 1, negative_prompt="bad", adapters=own)
        assert (together[i : i + 1] - alone).abs().max() <= 1e-5 * max(1.0, alone.abs().max().item()), prompt


class _Counted:
    """A view of a U-Net whose first layer counts its calls."""

    def __init__(self, model: Any) -> None:
        self.calls = 0

        def change(layer: nn.Module) -> nn.Module:
            twin = shallow_copy(layer)
            forward = layer.forward

            def counting(x: Tensor) -> Tensor:
                self.calls += 1
                return forward(x)

            twin.__dict__["forward"] = counting
            return twin

        self.model = view(model, {"conv_in": change})


def test_several_pictures_of_each_prompt_follow_their_prompt(pipe: Graph, adapters: tuple[Adapter, Adapter]) -> None:
    one, other = adapters
    four = latents(pipe, ["a", "b"], seed=[1, 2, 3, 4], num_images_per_prompt=2, adapters=[[one], [other]])
    for row, (prompt, adapter) in enumerate((("a", one), ("a", one), ("b", other), ("b", other))):
        alone = latents(pipe, prompt, seed=row + 1, adapters=[adapter])
        assert (four[row : row + 1] - alone).abs().max() <= 1e-4, row


def test_windows_and_curves_change_the_strength_over_the_steps(pipe: Graph, adapters: tuple[Adapter, Adapter]) -> None:
    one = adapters[0]
    full = latents(pipe, adapters=[one])
    assert torch.equal(full, latents(pipe, adapters=[one.during(0, 1)]))
    assert torch.equal(full, latents(pipe, adapters=[one.along((0, 1.0), (1, 1.0))]))
    first = latents(pipe, adapters=[one.during(0, 0.5)])
    assert torch.equal(first, latents(pipe, adapters=[one.along((0, 1.0), (1, 0.0))]))  # two steps: 1, then 0
    assert not torch.equal(first, full)


def test_fifty_adapters_leave_the_weights_as_they_are(pipe: Graph, adapters: tuple[Adapter, Adapter]) -> None:
    before = weights_hash(pipe)
    unet = pipe.bindings["unet"].load()
    small = pipe.bind(unet=unet)
    for seed in range(50):
        tensors = lora(unet, "unet", seed, ("attn2.to_q",), 0.3)
        adapter = adapter_of(tensors.items(), name=f"a{seed}", source="made here")
        small.with_adapters(adapter).adapted_bindings["unet"].load()(
            torch.zeros(1, unet.config.in_channels, 8, 8),
            torch.tensor(5),
            torch.zeros(1, 77, unet.config.cross_attention_dim),
        )
    assert weights_hash(pipe) == before


def test_threads_with_different_adapters_are_bit_for_bit_the_serial_runs(
    pipe: Graph, adapters: tuple[Adapter, Adapter]
) -> None:
    sets = [[adapters[0]], [adapters[1]], [], [adapters[0].during(0, 0.5)]]
    serial = [latents(pipe, adapters=own) for own in sets]
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(partial(_latents, pipe), sets * 2))
    for i, got in enumerate(threaded):
        assert torch.equal(got, serial[i % 4])


@pytest.mark.parametrize(
    ("passed", "text"),
    [
        ({"style": 1.0}, r"the graph has no adapter 'style'\. It has none: write pipe\.with_adapters\(…\)\."),
        (["style"], r"needs adapters\. Got 'style' \(str\)\. Write sf\.load_adapter\(file\) first\."),
        (3, r"needs a list of adapters, or strengths by name\. Got 3 \(int\)\."),
    ],
)
def test_what_is_no_adapter_is_refused(pipe: Graph, passed: Any, text: str) -> None:
    with pytest.raises(InputError, match=text):
        latents(pipe, adapters=passed)


def test_two_adapters_of_one_name_are_refused(pipe: Graph, adapters: tuple[Adapter, Adapter]) -> None:
    with pytest.raises(ConfigError, match=r"Two adapters have the name 'one'\. Pass name= to sf\.load_adapter\."):
        pipe.with_adapters(adapters[0], adapters[0])


@pytest.mark.parametrize(("prompt", "count"), [(["a", "b", "c"], 3), ("a", 1), (["a"], 1)])
@pytest.mark.parametrize("of_each", [1, 2])
def test_another_number_of_lists_than_of_prompts_is_refused(
    pipe: Graph, adapters: tuple[Adapter, Adapter], prompt: str | list[str], count: int, of_each: int
) -> None:
    text = rf"has lists for 2 prompts, and prompt has {count}\. Pass one list for each prompt"
    with pytest.raises(InputError, match=text):
        latents(pipe, prompt, adapters=[[adapters[0]], [adapters[1]]], num_images_per_prompt=of_each)


def test_adapters_for_two_prompts_need_a_conditioning_of_two(pipe: Graph, adapters: tuple[Adapter, Adapter]) -> None:
    one, two = (sf.load("emoji").only("positive")(prompt=prompt).positive for prompt in ("a fox", ["a fox"] * 2))
    call: dict[str, Any] = {"num_inference_steps": 1, "seed": 1, "guider": "none", "adapters": [[adapters[0]], []]}
    assert len(pipe(**call, positive=two).latents) == 2
    with pytest.raises(InputError, match=r"has lists for 2 prompts, and positive has 1 rows\. Pass one list for each"):
        pipe(**call, positive=one)


def test_the_strength_of_a_component_that_the_graph_lacks_is_refused(
    pipe: Graph, adapters: tuple[Adapter, Adapter]
) -> None:
    one = adapters[0]
    text = r"the graph has no component 'unett'\. Did you mean 'unet'\?"
    with pytest.raises(ConfigError, match=text):
        pipe.with_adapters(one.scaled(unett=0.5))
    with pytest.raises(InputError, match=text):
        latents(pipe.with_adapters(one), adapters={"one": {"unett": 0.5}})
    pipe.with_adapters(one.scaled(text_encoder_2=0.5))  # a list of block strengths names all text encoders


def test_a_part_of_a_graph_takes_the_strengths_of_the_whole(pipe: Graph, adapters: tuple[Adapter, Adapter]) -> None:
    prompt, other = pipe.only("positive"), adapters[1]
    plain = prompt(prompt="a fox", adapters=[other]).positive.tokens
    for scaled in (other.scaled(unet=0.5), other.scaled(blocks={"mid": 0}), other.scaled(blocks=[1] * 17)):
        assert torch.equal(prompt(prompt="a fox", adapters=[scaled]).positive.tokens, plain)


def test_strengths_by_name_may_be_those_of_components(pipe: Graph, adapters: tuple[Adapter, Adapter]) -> None:
    other = adapters[1]
    attached = latents(pipe.with_adapters(other.scaled(0.3)), adapters={"other": {"unet": 0.5}})
    assert torch.equal(attached, latents(pipe, adapters=[other.scaled(unet=0.5)]))


def test_a_graph_without_models_is_refused(adapters: tuple[Adapter, Adapter]) -> None:
    with pytest.raises(ConfigError, match=r"has no model bound that adapters change\. Load a checkpoint"):
        sf.load("sd").with_adapters(adapters[0])


def test_an_adapter_says_what_it_is(adapters: tuple[Adapter, Adapter]) -> None:
    one, other = adapters
    assert repr(one) == f"Adapter('one': {len(one.patches)} LoRA, rank 2, strength 1)"
    assert {*other.components} == {"denoiser", "text_encoder"}
    assert one.scaled(0.5).scaled(0.5).strength == 0.25
    changed = one.scaled(0.5, unet=0.3, blocks={"mid": 0}).during(0, 0.5)
    assert repr(changed).endswith("strength 0.5, unet 0.3, mid 0, during 0 to 0.5)")


def test_peft_folders_carry_their_scale(pipe: Graph, tmp_path: Path) -> None:
    """alpha / r of `adapter_config.json`, and of the header of a file that diffusers saved."""
    unet = pipe.bindings["unet"].load()
    tensors = {k.replace("unet.", "base_model.model."): v for k, v in lora(unet, "unet", 1, ("to_q",), 0.3).items()}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 1}))
    in_header = {k.replace("base_model.model.", "unet."): v for k, v in tensors.items()}
    header = {"lora_adapter_metadata": json.dumps({"unet.r": 2, "unet.lora_alpha": 1})}
    save_file(in_header, tmp_path / "pytorch_lora_weights.safetensors", metadata=header)
    folder = latents(pipe, adapters=[sf.load_adapter(tmp_path)])
    file = latents(pipe, adapters=[sf.load_adapter(tmp_path / "pytorch_lora_weights.safetensors")])
    save_file(in_header, tmp_path / "plain.safetensors")
    plain = latents(pipe, adapters=[sf.load_adapter(tmp_path / "plain.safetensors", scale=0.5)])
    assert torch.equal(folder, plain)
    assert torch.equal(file, plain)


@pytest.mark.parametrize("points", [(0, 1), ((0, 1, 2),), (("a", 1),), ((0, "b"),)])
def test_points_that_are_no_pairs_of_numbers_are_refused(adapters: tuple[Adapter, Adapter], points: Any) -> None:
    with pytest.raises(ConfigError, match=r"^along: needs "):
        adapters[0].along(*points)


def test_texts_in_place_of_numbers_are_refused(pipe: Graph, adapters: tuple[Adapter, Adapter]) -> None:
    text: Any = "4"
    with pytest.raises(ConfigError, match=r"^during: start: needs a finite number\. Got '4'\.$"):
        adapters[0].during(text, 1.0)
    with pytest.raises(ConfigError, match=r"^padded: one has rank 2\. Got '4'\."):
        adapters[0].padded(text)
    with pytest.raises(ConfigError, match=r"^extract: needs a rank of 1 or more\. Got '4'\.$"):
        sf.adapters.extract(pipe, pipe, text)
    with pytest.raises(ConfigError, match=r"^combine: needs adapters\. Got '4' \(str\)\.$"):
        sf.adapters.combine([adapters[0], text])


@pytest.mark.parametrize("one", ["b.safetensors", Path("b.safetensors")])
def test_files_in_place_of_adapters_are_refused(pipe: Graph, adapters: tuple[Adapter, Adapter], one: Any) -> None:
    with pytest.raises(ConfigError, match=r"Write sf\.load_adapter\(file\) first\.$"):
        pipe.with_adapters(adapters[0], one)
    with pytest.raises(InputError, match=r"Write sf\.load_adapter\(file\) first\.$"):
        latents(pipe, adapters=one)
    with pytest.raises(InputError, match=r"or one list of adapters for each prompt\. Got lists and None"):
        latents(pipe, ["a", "b"], adapters=[[adapters[0]], None])


def test_threads_that_share_one_predict_function_have_the_strengths_of_their_own_steps(
    pipe: Graph, adapters: tuple[Adapter, Adapter]
) -> None:
    """As a guider that calls it from threads of its own."""
    adapted = pipe.with_adapters(adapters[0].along((0, 1.0), (1, 0.0)))
    predict = PredictNoise(unet=adapted.adapted_bindings["unet"].load())().predict
    prompt = pipe.only("positive")(prompt="a red apple").positive
    noise = torch.randn((1, 8, 8, 8), generator=torch.Generator().manual_seed(0))
    passes = [Pass(noise, step, prompt) for step in pipe.bindings["scheduler"].load().steps(4)]
    alone = [predict([one])[0] for one in passes]
    assert not torch.equal(alone[0], alone[3])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(predict, [[one] for one in passes * 5]))
    assert all(torch.equal(one, other) for (one,), other in zip(found, alone * 5, strict=True))
