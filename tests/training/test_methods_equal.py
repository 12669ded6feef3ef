"""Methods and the published training scripts give the same losses and the same weights, over ten steps.

Batches, first weights and seeds are equal. Losses and weights agree within 1e-6.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import sfumato as sf
from sfumato import Graph
from sfumato.components.random import Random
from sfumato.components.training.adapters import TrainedAdapter
from sfumato.components.training.words import TrainedWords
from sfumato.presets.training.consistency import DistilledUNet, lcm, lcm_lora
from sfumato.presets.training.control import controlnet
from sfumato.presets.training.embedding import embedding
from sfumato.presets.training.method import Method
from sfumato.presets.training.new_nets import TrainedNet

from ..presets.support import Reference
from .reference import controlnet as controlnet_script
from .reference import lcm as lcm_script
from .reference import textual_inversion as words_script
from .reference.loop import SEED, Batch, Trained

Load = Callable[..., Graph]
LoadTheirs = Callable[..., Reference]
STEPS, SIDE = 10, 32
LR = 1e-5
"""That of published control nets. Steps of Adam are as long for tiny gradients, whose float32 noise is large."""
WIDTHS = (4, 8, 8, 8)
WEAK = lcm_script.Distillation(w_min=1.0, w_max=3.0)
"""Less guidance than published: it multiplies the rounding of float32."""


def batches(*more: str) -> list[dict[str, Any]]:
    """The same batches at each call. more: names of further pictures."""
    generator = torch.Generator().manual_seed(1)
    names = ("pixels", *more)
    return [
        {
            **{name: torch.rand(2, 3, SIDE, SIDE, generator=generator) for name in names},
            "prompt": ["a fox", f"a cat {i}"],
        }
        for i in range(STEPS)
    ]


def ours(method: Method, data: Sequence[Batch], *, lr: float = LR, clip: float | None = 1.0) -> list[float]:
    """The losses of a method, with one generator for all draws."""
    graph, parameters = method.recipe.bind(method.trained.bindings()), [*method.trained.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=1e-2)
    random, losses = Random.seeded([SEED]), list[float]()
    for batch in data:
        with sf.gradients():
            out = graph(**batch, random=random)
        random = out.random
        out.loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        method.trained.after_step()
        optimizer.zero_grad()
        losses.append(float(out.loss.detach()))
    return losses


def same(losses: Sequence[float], weights: Mapping[str, Tensor], theirs: Trained) -> None:
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(theirs.losses), rtol=0, atol=1e-6)
    assert weights.keys() == theirs.weights.keys()
    apart = {name: float((weights[name] - theirs.weights[name]).detach().abs().max()) for name in weights}
    assert max(apart.values()) <= 1e-6, sorted(apart.items(), key=lambda item: -item[1])[:5]


def test_a_control_net(tiny: Load, tiny_reference: LoadTheirs, diffusers: Any) -> None:
    pipe, data, method = tiny_reference().pipe, batches("control_image"), controlnet(tiny(), embedding_widths=WIDTHS)
    assert isinstance(method.trained, TrainedNet)
    net = diffusers.ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=WIDTHS)
    net.load_state_dict(method.trained.net.state_dict())
    theirs = controlnet_script.controlnet(pipe, net, data, lr=LR)
    same(ours(method, data), dict(method.trained.net.named_parameters()), theirs)


def test_words(tiny: Load, tiny_reference: LoadTheirs) -> None:
    """The script gives the new rows the ids after the vocabulary, ours have others: both are read here."""
    pipe = tiny_reference().pipe
    method = embedding(tiny(), words="<cat-toy>", vectors=2, initializer="cat toy", templates=None)
    assert isinstance(method.trained, TrainedWords)
    tokenizer, new = pipe.tokenizer, len(pipe.text_encoder.get_input_embeddings().weight)
    data, theirs_data = list[Batch](), list[Batch]()
    for batch in batches():
        texts = ("a fox", f"a <cat-toy> {len(data)}")
        data.append({**batch, "prompt": texts})
        before, after = ([*tokenizer(part).input_ids[1:-1]] for part in ("a", f"{len(theirs_data)}"))
        words = [tokenizer(texts[0]).input_ids[1:-1], [*before, new, new + 1, *after]]
        ids = [[tokenizer.bos_token_id, *row, tokenizer.eos_token_id] for row in words]
        filled = [[*row, *[tokenizer.pad_token_id] * (tokenizer.model_max_length - len(row))] for row in ids]
        theirs_data.append({**batch, "ids": torch.tensor(filled)})
    first = method.trained.rows["text_encoder"].detach().clone()
    theirs = words_script.textual_inversion(pipe, theirs_data, first, lr=1e-3)
    losses = ours(method, data, lr=1e-3, clip=None)
    same(losses, {"rows": method.trained.rows["text_encoder"]}, theirs)
    assert (method.trained.rows["text_encoder"] - first).abs().max() > 1e-3


def test_a_lora_that_draws_in_a_few_steps(tiny: Load, tiny_reference: LoadTheirs) -> None:
    data, method = batches(), lcm_lora(tiny(), rank=2, w_min=1.0, w_max=3.0)
    assert isinstance(method.trained, TrainedAdapter)

    def named_as_theirs() -> dict[str, Tensor]:
        ends = {"down": "lora_A.weight", "up": "lora_B.weight"}
        split = {name: name.partition(".")[2].rpartition(".") for name in method.trained.state_dict()}
        return {f"{split[n][0]}.{ends[split[n][2]]}": t.clone() for n, t in method.trained.state_dict().items()}

    theirs = lcm_script.lcm_lora(tiny_reference().pipe, data, WEAK, rank=2, start=named_as_theirs(), lr=LR)
    same(ours(method, data), named_as_theirs(), theirs)


def test_a_u_net_that_draws_in_a_few_steps(tiny: Load, tiny_reference: LoadTheirs, diffusers: Any) -> None:
    pipe, data, method = tiny_reference().pipe, batches(), lcm(tiny(), guidance_width=12, w_min=1.0, w_max=3.0)
    trained = method.trained
    assert isinstance(trained, DistilledUNet)
    reads = trained.unet.time_embedding.cond_proj
    assert reads is not None
    nn.init.normal_(reads.weight, std=0.1, generator=torch.Generator().manual_seed(2))
    trained.target_unet.load_state_dict(trained.unet.state_dict())
    unet = diffusers.UNet2DConditionModel.from_config({**pipe.unet.config, "time_cond_proj_dim": 12})
    unet.load_state_dict(trained.unet.state_dict())
    theirs = lcm_script.lcm(pipe, unet, data, WEAK, lr=LR)
    losses = ours(method, data)
    target = {f"target.{name}": t for name, t in trained.target_unet.named_buffers()}
    same(losses, {**dict(trained.unet.named_parameters()), **target}, theirs)
