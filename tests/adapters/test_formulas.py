"""Each kind of patch against the program that trains it: LyCORIS' modules and PEFT's layers, by their forward."""

import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.components.adapters.build import patch_of
from sfumato.components.adapters.keys import Entry, entries_of
from sfumato.components.adapters.patches import Patch
from sfumato.components.adapters.placing import fits
from sfumato.components.adapters.scales import Scales, read_scales
from sfumato.components.adapters.weight_patches import Scaling

LAYERS: Mapping[str, Any] = {  # a function that makes a layer, and the shape of its input
    "linear": (lambda: nn.Linear(48, 64), (2, 48)),
    "conv": (lambda: nn.Conv2d(16, 32, 3, padding=1), (2, 16, 8, 8)),
}
LYCORIS: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "LoCon": ("locon", "LoConModule", {}),
    "LoCon in Tucker's form": ("locon", "LoConModule", {"use_tucker": True}),
    "rsLoRA": ("locon", "LoConModule", {"rs_lora": True}),
    "DoRA of rows": ("locon", "LoConModule", {"weight_decompose": True, "wd_on_out": True}),
    "DoRA of columns": ("locon", "LoConModule", {"weight_decompose": True, "wd_on_out": False}),
    "LoHa": ("loha", "LohaModule", {}),
    "LoHa in Tucker's form": ("loha", "LohaModule", {"use_tucker": True}),
    "LoHa with DoRA": ("loha", "LohaModule", {"weight_decompose": True}),
    "LoKr": ("lokr", "LokrModule", {"factor": 4}),
    "LoKr of two low ranks": ("lokr", "LokrModule", {"factor": 8, "decompose_both": True}),
    "LoKr in Tucker's form": ("lokr", "LokrModule", {"factor": 4, "use_tucker": True}),
    "LoKr, whole": ("lokr", "LokrModule", {"factor": 4, "full_matrix": True}),
    "OFT": ("diag_oft", "DiagOFTModule", {}),
    "OFT, limited and rescaled": ("diag_oft", "DiagOFTModule", {"constraint": 0.01, "rescaled": True}),
    "BOFT": ("boft", "ButterflyOFTModule", {"rescaled": True}),
    "BOFT, limited": ("boft", "ButterflyOFTModule", {"constraint": 0.01}),
    "GLoRA": ("glora", "GLoRAModule", {}),
    "IA3 of rows": ("ia3", "IA3Module", {}),
    "IA3 of columns": ("ia3", "IA3Module", {"train_on_input": True}),
}


def randomize(module: nn.Module, layer: nn.Module) -> None:
    """Random numbers in all parameters of an adapter, near those that change nothing."""
    own = {id(p) for p in layer.parameters()}
    for name, tensor in module.named_parameters():
        if id(tensor) not in own:
            near = 1.0 if "rescale" in name or "dora" in name else 0.0
            tensor.data = torch.randn(tensor.shape) * 0.2 + near


def patched_output(layer: nn.Module, patch: Patch, x: Tensor) -> Tensor:
    """The output of a layer whose weight the patch has changed."""
    weight, bias = (getattr(layer, n).detach() for n in ("weight", "bias"))
    assert fits(patch, weight.shape)
    changed = weight + patch.difference(weight)
    if isinstance(patch, Scaling) and patch.with_bias:
        bias = bias * (1 + patch.factor)
    bias = bias if patch.bias is None else bias + patch.bias
    return F.linear(x, changed, bias) if isinstance(layer, nn.Linear) else F.conv2d(x, changed, bias, padding=1)


def read(tensors: Mapping[str, Tensor], scales: Scales | None = None) -> Patch:
    """The one patch of a file with these tensors."""
    entries, unknown = entries_of((f"layer.{name}", tensor) for name, tensor in tensors.items())
    assert not unknown
    assert list(entries) == ["layer"]
    return patch_of(entries["layer"], scales or Scales(), "", "layer")[1]


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("name", LYCORIS)
def test_a_patch_makes_what_lycoris_module_makes(name: str, kind: str) -> None:
    """Within 1e-5 of the size of the output. LyCORIS' `get_diff_weight` is wrong by alpha/r; its forward is right."""
    module_name, class_name, settings = LYCORIS[name]
    make, shape = LAYERS[kind]
    torch.manual_seed(0)
    layer = make()
    cls = getattr(import_module(f"lycoris.modules.{module_name}"), class_name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = cls("layer", layer, 1.0, 4, 2, **settings)
    randomize(module, layer)
    module.eval()
    saved = module.custom_state_dict() or module.state_dict()  # None where both are the same
    tensors = {n: t.detach() for n, t in saved.items()}
    x = torch.randn(shape)
    with torch.no_grad():
        theirs = module(x)
    ours = patched_output(layer, read(tensors), x)
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    assert (layer(x) - theirs).abs().max() > 1e-2 * theirs.abs().max()  # it does change something


class _Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.conv = LAYERS["linear"][0](), LAYERS["conv"][0]()

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(x), self.conv(y)


PEFT: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "LoRA": ("LoraConfig", {"r": 4, "lora_alpha": 2}),
    "LoRA with a bias": ("LoraConfig", {"r": 4, "lora_alpha": 2, "lora_bias": True}),
    "rsLoRA": ("LoraConfig", {"r": 4, "lora_alpha": 2, "use_rslora": True}),
    "LoRA, patterns": (
        "LoraConfig",
        {"r": 4, "lora_alpha": 2, "rank_pattern": {"conv": 8}, "alpha_pattern": {"conv": 3}},
    ),
    "DoRA": ("LoraConfig", {"r": 4, "lora_alpha": 2, "use_dora": True}),
    "LoHa": ("LoHaConfig", {"r": 4, "alpha": 2}),
    "LoHa of convolutions": ("LoHaConfig", {"r": 4, "alpha": 2, "use_effective_conv2d": True}),
    "LoKr": ("LoKrConfig", {"r": 2, "alpha": 3}),
    "LoKr, whole": ("LoKrConfig", {"r": 64, "alpha": 2}),
    "OFT": ("OFTConfig", {"r": 0, "oft_block_size": 8}),
    "OFT by the inverse": ("OFTConfig", {"r": 0, "oft_block_size": 8, "use_cayley_neumann": False}),
    "OFT, three terms": ("OFTConfig", {"r": 0, "oft_block_size": 8, "num_cayley_neumann_terms": 3}),
    "OFT, eight terms": ("OFTConfig", {"r": 0, "oft_block_size": 8, "num_cayley_neumann_terms": 8}),
    "OFT, one block": ("OFTConfig", {"r": 0, "oft_block_size": 8, "block_share": True}),
    "BOFT": ("BOFTConfig", {"boft_block_size": 4}),
    "BOFT of two stages": ("BOFTConfig", {"boft_block_size": 4, "boft_n_butterfly_factor": 2}),
    "IA3": ("IA3Config", {"feedforward_modules": []}),
    "IA3 of inputs": ("IA3Config", {"feedforward_modules": ["linear", "conv"]}),
}
NOT_FOR_CONVOLUTIONS = ("OFT",)
"""PEFT rotates the unfolded picture and adds it up again, which is no change of a weight; its merge equals ours."""


@pytest.mark.parametrize("name", PEFT)
def test_a_patch_makes_what_pefts_layer_makes(name: str) -> None:
    """Within 1e-5 of the size of the output, with the scale that the config says."""
    class_name, settings = PEFT[name]
    only_linear = name.startswith(NOT_FOR_CONVOLUTIONS)
    torch.manual_seed(0)
    plain = _Both()
    model = _Both()
    model.load_state_dict(plain.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft: Any = import_module("peft")
        config = getattr(peft, class_name)(target_modules=["linear"] if only_linear else ["linear", "conv"], **settings)
        tuned = peft.get_peft_model(model, config)
    for key, parameter in tuned.named_parameters():
        if parameter.requires_grad:
            near = 1.0 if any(part in key for part in ("boft_s", "ia3", "magnitude")) else 0.0
            parameter.data = torch.randn(parameter.shape) * 0.2 + near
    tuned.eval()
    x, y = (torch.randn(LAYERS[kind][1]) for kind in ("linear", "conv"))
    with torch.no_grad():
        theirs: dict[str, Tensor] = dict(zip(LAYERS, tuned(x, y), strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT takes a bias for a part of a weight
        saved = peft.get_peft_model_state_dict(tuned)
    entries, unknown = entries_of(saved.items())
    assert not unknown
    scales = read_scales({}, config.to_dict())
    for body, entry in entries.items():
        part = body.removeprefix("base_model.model.")
        ours = patched_output(getattr(plain, part), patch_of(entry, scales, "", part)[1], x if part == "linear" else y)
        assert (ours - theirs[part]).abs().max() <= 1e-5 * theirs[part].abs().max(), part


def test_adalora_multiplies_its_singular_values() -> None:
    """`B (A * E) * alpha / (rank + 1e-5)`: PEFT's rule, in which alpha is not divided by r."""
    torch.manual_seed(0)
    down, up, singular = torch.randn(4, 48), torch.randn(64, 4), torch.randn(4, 1)
    patch = read({"lora_A": down, "lora_B": up, "lora_E": singular}, read_scales({}, {"lora_alpha": 6, "r": 12}))
    expected = up @ (down * singular) * (6 / (4 + 1e-5))
    assert torch.allclose(patch.difference(torch.zeros(64, 48)), expected, rtol=1e-6)


def test_old_files_of_glora_have_the_factors_in_the_other_order() -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 48)
    a1, a2, b1, b2 = torch.randn(48, 4), torch.randn(4, 48), torch.randn(64, 4), torch.randn(4, 48)
    new = read({"a1.weight": a1, "a2.weight": a2, "b1.weight": b1, "b2.weight": b2, "alpha": torch.tensor(2.0)})
    old = read({"a1.weight": a2, "a2.weight": a1, "b1.weight": b2, "b2.weight": b1, "alpha": torch.tensor(2.0)})
    assert torch.equal(new.difference(weight), old.difference(weight))
    assert torch.allclose(new.difference(weight), (weight @ a1 @ a2 + b1 @ b2) * 0.5, atol=1e-4)


def test_the_rest_of_a_pair_is_asked_for_by_name() -> None:
    entry = Entry("layer", {"down": torch.ones(4, 48)}, {"down": "layer.lora_down.weight"})
    with pytest.raises(Exception, match=r"^layer: LoRA needs up too. The file has only layer.lora_down.weight.$"):
        patch_of(entry, Scales(), "", "layer")


def test_t_lora_is_refused_by_name() -> None:
    entries, _ = entries_of([("layer.q_layer.weight", torch.ones(1)), ("layer.lambda_layer", torch.ones(1))])
    with pytest.raises(Exception, match="is T-LoRA, whose rank depends on the timestep"):
        patch_of(entries["layer"], Scales(), "", "layer")
