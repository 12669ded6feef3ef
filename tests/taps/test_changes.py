"""Changes are values that a user writes: functions of attention, or layers, for one pass."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sfumato as sf
from sfumato import Graph
from sfumato.blocks.denoise.unet import PredictNoise
from sfumato.components.conditioning import SDConditioning
from sfumato.components.models.flux import FluxTransformer2DModel
from sfumato.components.models.sd3 import SD3Transformer2DModel
from sfumato.components.taps import AttentionCall, Identity, Tap, Taps
from sfumato.components.taps.apply import apply_taps
from sfumato.components.types import Pass

from ..guiders.support import noise
from ..presets.support import counted, held
from .changes import ByMap, ByRole, FirstRow, HalveFeedForward, NoLayer, Read, ReadFirst, Usual, Write

STEPS = sf.schedulers.EulerDiscreteScheduler().steps(4)
MIDDLE = "mid_block.attentions.0.transformer_blocks.0"


class Seen:
    """What a change noted."""

    def __init__(self) -> None:
        self.calls: list[tuple[AttentionCall, torch.Size, torch.Size]] = []


class Look(sf.taps.AttentionChange):
    """All attention as it is; the test sees what the change may know."""

    part = "attention"
    seen: Seen

    def attend(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> Tensor:
        self.seen.calls.append((call, q.shape, k.shape))
        return call.attend(q, k, v)


def taps(change: sf.taps.Change, *layers: int | str) -> Taps:
    return Taps((Tap(change, layers),))


def a_pass(rows: int = 2, seed: int = 1, **more: Any) -> Pass:
    return Pass(noise(seed, (rows, 8, 8, 8)), STEPS[1], SDConditioning(noise(seed + 50, (rows, 5, 128))), **more)


def predictions(emoji: Graph, *passes: Pass) -> list[Tensor]:
    with torch.no_grad():
        return list(PredictNoise(unet=held(emoji, "unet"))().predict(passes))


def apart(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


# -------------------------------------------------------------------------------------------------------------- values
def test_a_change_is_a_frozen_value_that_is_pickled_by_its_name() -> None:
    change = ByMap(2)
    assert change == ByMap(2.0) != ByMap(3.0)
    assert hash(change) == hash(ByMap(2.0)) and taps(change) == taps(ByMap(2.0))
    assert pickle.loads(pickle.dumps(taps(change))) == taps(change)
    with pytest.raises(FrozenInstanceError):
        change.scale = 3.0  # type: ignore[misc]  # what is refused


def test_settings_are_checked_by_their_types() -> None:
    with pytest.raises(sf.ConfigError, match=r"^ByMap\.scale takes float, got 'two'\.$"):
        ByMap("two")  # type: ignore[arg-type]  # what is refused


def test_a_tap_takes_nothing_but_changes_that_are_hashable() -> None:
    with pytest.raises(sf.ConfigError, match=r"^A tap needs a change, got a str\. Write a subclass of Change"):
        Tap("identity")  # type: ignore[arg-type]  # what is refused

    class Listed(sf.taps.AttentionChange):
        weights: list[float]

        def attend(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> Tensor:
            return v

    with pytest.raises(sf.ConfigError, match=r"^Listed needs hashable settings: unhashable type: 'list'\. Use numbers"):
        Tap(Listed([1.0]))


def test_a_change_that_changes_nothing_is_refused_when_its_class_is_made() -> None:
    with pytest.raises(sf.Malformed, match=r"Empty has no attend\. Write it: the change itself\.$"):

        class Empty(sf.taps.AttentionChange):  # pyright: ignore[reportUnusedClass]
            scale: float = 1.0

    with pytest.raises(sf.Malformed, match=r"Bare has no replaced\. Write it"):

        class Bare(sf.taps.Change):  # pyright: ignore[reportUnusedClass]
            scale: float = 1.0


def test_an_unknown_part_is_refused_when_its_class_is_made() -> None:
    text = r"Crossed has no layers for part = 'cros'\. Did you mean 'cross'\? There are: block, self, cross"
    with pytest.raises(sf.Malformed, match=text):

        class Crossed(sf.taps.AttentionChange):  # pyright: ignore[reportUnusedClass]
            part = "cros"  # type: ignore[assignment]  # what is refused

            def attend(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> Tensor:
                return call.attend(q, k, v)


# ----------------------------------------------------------------------------------------------- functions of q, k, v
@pytest.mark.parametrize(
    ("change", "got"), [(FirstRow(), r"the shape \(1, 4, 64, 24\)"), (FirstRow(keep=False), "NoneType")]
)
def test_attention_of_another_shape_is_refused_and_not_repeated_over_rows(
    emoji: Graph, change: FirstRow, got: str
) -> None:
    text = rf"FirstRow\.attend must return a tensor of the shape \(2, 4, 64, 24\) for .*attn2\. Got {got}"
    with pytest.raises(sf.UnfitValue, match=text):
        predictions(emoji, a_pass(taps=taps(change)))


def test_a_layer_that_is_no_module_is_refused(emoji: Graph) -> None:
    with pytest.raises(sf.UnfitValue, match=r"NoLayer\.replaced must return a module for .*\. Got NoneType"):
        predictions(emoji, a_pass(taps=taps(NoLayer())))


def test_attention_as_it_is_changes_no_bit(emoji: Graph) -> None:
    plain, changed = predictions(emoji, a_pass())[0], predictions(emoji, a_pass(taps=taps(Usual())))[0]
    assert torch.equal(plain, changed)


def test_the_map_times_the_values_is_attention(emoji: Graph) -> None:
    plain, mapped = predictions(emoji, a_pass())[0], predictions(emoji, a_pass(taps=taps(ByMap())))[0]
    assert apart(plain, mapped) < 1e-5
    assert apart(plain, predictions(emoji, a_pass(taps=taps(ByMap(2.0))))[0]) > 1e-3


def test_the_map_has_the_mask_of_the_attention() -> None:
    q, k, v = (noise(s, (2, 3, n, 4)) for s, n in ((1, 6), (2, 5), (3, 5)))
    mask = torch.zeros(2, 1, 1, 5)
    mask[..., 3:] = -10000.0
    call = AttentionCall(at=None, tokens=6, start=0, mask=mask, usual=None, found=None)  # type: ignore[arg-type]  # not read
    expected = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    assert apart(call.map(q, k) @ v, expected) < 1e-6


def test_a_change_knows_its_layer_and_the_passes(emoji: Graph) -> None:
    seen = Seen()
    both = taps(Look(seen))
    predictions(emoji, a_pass(taps=both), a_pass(1, role="negative", taps=both))
    kinds = {call.path.rpartition(".")[2]: call.kind for call, _, _ in seen.calls}
    assert kinds == {"attn1": "self", "attn2": "cross"}
    assert len(seen.calls) == 14 and seen.calls[0][0].path == "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    call, q, k = next(entry for entry in seen.calls if entry[0].path == f"{MIDDLE}.attn2")
    assert [(p.role, p.rows) for p in call.forward.passes] == [("positive", slice(0, 2)), ("negative", slice(2, 3))]
    assert call.forward.first_rows == [0, 0, 2]
    assert call.forward.step.index == 1
    assert (q[0], k[0]) == (3, 3) and k[2] == 5
    assert call.picture == slice(0, q[2]) and call.size[0] * call.size[1] == q[2]


def test_joint_attention_says_which_tokens_are_the_pictures() -> None:
    seen = Seen()
    with torch.random.fork_rng(), torch.no_grad():
        flux = FluxTransformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(4, 6, 6),
        )  # fmt: skip
        ids = torch.zeros(7, 3), torch.zeros(12, 3)
        view = apply_taps(flux, taps(Look(seen)), (6, 8))
        view(noise(1, (1, 12, 16)), noise(2, (1, 7, 8)), noise(3, (1, 8)), torch.ones(1), ids[1], ids[0])
        sd3 = SD3Transformer2DModel(
            sample_size=8, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2, out_channels=4,
            joint_attention_dim=8, caption_projection_dim=16, pooled_projection_dim=8, pos_embed_max_size=8,
            dual_attention_layers=(0,),
        )  # fmt: skip
        apply_taps(sd3, taps(Look(seen)), (6, 8))(
            noise(1, (1, 4, 6, 8)), noise(2, (1, 7, 8)), noise(3, (1, 8)), torch.ones(1)
        )
    assert [(call.path, call.kind, call.picture) for call, _, _ in seen.calls] == [
        ("transformer_blocks.0.attn", "joint", slice(7, 19)),
        ("single_transformer_blocks.0.attn", "joint", slice(7, 19)),
        ("transformer_blocks.0.attn", "joint", slice(7, 19)),
        ("transformer_blocks.0.attn2", "self", slice(0, 12)),
        ("transformer_blocks.1.attn", "joint", slice(7, 19)),
    ]
    assert {call.size for call, _, _ in seen.calls} == {(3, 4)}


def test_a_model_without_attention_to_the_prompt_alone_says_so() -> None:
    class Cross(Usual):
        part = "cross"

    with torch.random.fork_rng():
        flux = FluxTransformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=0, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(4, 6, 6),
        )  # fmt: skip
    with pytest.raises(
        sf.ConfigError, match=r"^transformer_blocks\.0 of FluxTransformer2DModel has no attention to the"
    ):
        apply_taps(flux, taps(Cross()), (6, 8))


def test_the_layers_of_the_model_called_alone_have_no_passes(emoji: Graph) -> None:
    view = apply_taps(held(emoji, "unet"), taps(ReadFirst()), (8, 8))
    with pytest.raises(sf.UnfitValue, match=r"needs the passes of the forward, got none\. Call the model through"):
        view(noise(1, (1, 8, 8, 8)), 500, noise(2, (1, 5, 128)))


def test_of_two_changes_the_second_is_around_the_first(emoji: Graph) -> None:
    seen = Seen()
    both = Taps((Tap(ReadFirst()), *taps(Look(seen)).taps))
    outside = predictions(emoji, a_pass(taps=both))[0]
    assert len(seen.calls) == 14
    assert torch.equal(outside, predictions(emoji, a_pass(taps=taps(ReadFirst())))[0])
    alone = Tap(Identity(), ("down", "mid", "up"))  # it computes no attention, so one inside it is not called
    inside = Taps((Tap(ReadFirst()), alone))
    assert torch.equal(predictions(emoji, a_pass(taps=inside))[0], predictions(emoji, a_pass(taps=Taps((alone,))))[0])


def test_a_layer_of_a_users_own_replaces_one(emoji: Graph) -> None:
    unet = held(emoji, "unet")
    halved = apply_taps(unet, taps(HalveFeedForward(), "mid"), (8, 8))
    x = noise(1, (1, 64, unet.get_submodule(MIDDLE).norm1.normalized_shape[0]))
    with torch.no_grad():
        assert torch.equal(halved.get_submodule(f"{MIDDLE}.ff")(x), unet.get_submodule(f"{MIDDLE}.ff")(x) / 2)
    assert type(unet.get_submodule(f"{MIDDLE}.ff")) is not type(halved.get_submodule(f"{MIDDLE}.ff"))


# --------------------------------------------------------------------------------------------- rows, passes and memory
def test_rows_of_a_pass_share_and_those_of_other_passes_do_not(emoji: Graph) -> None:
    sharing = taps(ReadFirst())
    one, other = a_pass(taps=sharing), a_pass(seed=9, role="negative", taps=sharing)
    with counted(emoji) as did:
        together = predictions(emoji, one, other)
    assert did.rows == [4]
    for made, p in zip(together, (one, other), strict=True):
        assert apart(made, predictions(emoji, p)[0]) < 1e-5
        same = replace(p, latents=p.latents[:1], conditioning=p.conditioning[:1], taps=Taps())
        assert apart(made[:1], predictions(emoji, same)[0]) < 1e-5  # the first row reads itself
        assert apart(made, predictions(emoji, replace(p, taps=Taps()))[0]) > 1e-3


def test_a_change_acts_by_role_and_step(emoji: Graph) -> None:
    both = [a_pass(taps=taps(ByRole())), a_pass(role="negative", taps=taps(ByRole()))]
    positive, negative = predictions(emoji, *both)
    assert apart(positive, negative) > 1e-3
    for made, p in zip((positive, negative), both, strict=True):
        assert apart(made, predictions(emoji, p)[0]) < 1e-5
    first = replace(both[0], step=STEPS[0])
    plain = replace(first, taps=Taps())
    assert apart(predictions(emoji, first)[0], predictions(emoji, plain)[0]) < 1e-6  # the factor of step 0 is 1


def test_what_a_pass_writes_a_later_one_reads_in_the_same_call(emoji: Graph) -> None:
    writer, reader = a_pass(taps=taps(Write())), a_pass(seed=9, taps=taps(Read()))
    wrote, read = predictions(emoji, writer, reader)
    assert torch.equal(wrote, predictions(emoji, replace(writer, taps=Taps()))[0])
    assert apart(read, predictions(emoji, replace(reader, taps=Taps()))[0]) > 1e-3
    assert apart(predictions(emoji, writer, replace(writer, taps=taps(Read())))[1], wrote) < 1e-5  # it reads itself
    with pytest.raises(KeyError):  # no memory is left for another call
        predictions(emoji, reader)


def test_threads_that_share_a_function_have_memories_and_passes_of_their_own(emoji: Graph) -> None:
    predict = PredictNoise(unet=held(emoji, "unet"))().predict
    made = [a_pass(1 + k % 3, k, role="negative" if k % 2 else "positive") for k in range(4)]

    def one(k: int) -> list[Tensor]:
        mine = made[k % 4]
        with torch.no_grad():
            asked = [replace(mine, taps=taps(change)) for change in (Write(), Read(), ByRole(), ReadFirst())]
            return list(predict(asked))

    serial = [one(k) for k in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for k, found in enumerate(pool.map(one, range(12))):
            assert all(map(torch.equal, found, serial[k % 4]))
