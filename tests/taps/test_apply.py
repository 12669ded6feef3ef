"""`ApplyTap` changes passes by role and step, in any pipeline, beside guiders, control nets and adapters."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

import sfumato as sf
from sfumato import Block, Graph
from sfumato.blocks.control.controlnet import ApplyControlNet
from sfumato.blocks.control.taps import ApplyTap
from sfumato.components.conditioning import SDConditioning
from sfumato.components.taps import Drop, FreeU, Identity, Tap, Taps, TokenMerging
from sfumato.components.types import Pass

from ..guiders.support import noise
from ..presets.support import counted
from .changes import ByMap, ReadFirst, Usual

STEPS = sf.schedulers.EulerDiscreteScheduler().steps(10)
RUN: dict[str, Any] = {"prompt": ["a fox", "a rocket"], "num_inference_steps": 3, "output_type": "np"}


def tapped(pipe: Graph, change: sf.taps.Change, name: str = "tap", **where: Any) -> Graph:
    return pipe.insert(name, ApplyTap(change=change, **where), before="denoise.guider")


def pictures(pipe: Graph, **inputs: Any) -> torch.Tensor:
    return torch.from_numpy(pipe(**{**RUN, "seed": 7, **inputs}).images)


# ----------------------------------------------------------------------------------------------------- roles and steps
def taps_of(block: ApplyTap, *passes: Pass) -> list[Taps]:
    got: list[Taps] = []

    def predict(passes: Any) -> Any:
        got.extend(p.taps for p in passes)
        return [p.latents for p in passes]

    block(predict=predict).predict(passes)
    return got


def a_pass(step: int = 0, **more: Any) -> Pass:
    return Pass(noise(1, (1, 8, 8, 8)), STEPS[step], SDConditioning(noise(2, (1, 5, 128))), **more)


def test_passes_are_changed_by_role() -> None:
    tap = Tap(Usual(), ("mid",))
    block = ApplyTap(change=Usual(), layers=("mid",), roles=("positive",))
    assert taps_of(block, a_pass(), a_pass(role="negative")) == [Taps((tap,)), Taps()]
    assert taps_of(ApplyTap(change=Usual()), a_pass(role="perturbed")) == [Taps((Tap(Usual()),))]


def test_a_window_counts_whole_steps() -> None:
    block = ApplyTap(change=Usual(), start=0.2, stop=0.5)
    assert [bool(taps_of(block, a_pass(step))[0]) for step in range(10)] == [2 <= step < 5 for step in range(10)]
    with pytest.raises(sf.ConfigError, match=r"^ApplyTap\.stop needs more than start \(0\.5\), got 0\.5\.$"):
        ApplyTap(change=Usual(), start=0.5, stop=0.5)


def test_the_taps_of_a_guider_are_around_it() -> None:
    own = Taps((Tap(Drop()),))
    assert taps_of(ApplyTap(change=Usual()), a_pass(taps=own)) == [Taps((Tap(Usual()), *own.taps))]


# -------------------------------------------------------------------------------------------------------- in pipelines
def test_a_change_is_inserted_and_removed(emoji: Graph) -> None:
    changed = tapped(emoji, TokenMerging())
    assert changed.inputs.keys() == emoji.inputs.keys()
    assert changed.remove("denoise.tap") == emoji
    plain = pictures(emoji)
    assert torch.equal(pictures(tapped(emoji, TokenMerging(ratio=0))), plain)
    assert torch.equal(pictures(tapped(emoji, Usual())), plain)
    assert not torch.equal(pictures(changed), plain)


def test_changed_passes_share_a_forward_and_those_that_are_not_changed_do_not(emoji: Graph) -> None:
    with counted(emoji) as did:
        pictures(tapped(emoji, TokenMerging(), stop=0.4))
    assert did.rows == [4] * 3
    with counted(emoji) as did:
        pictures(tapped(emoji, TokenMerging(), roles=("positive",), stop=0.4))
    assert did.rows == [2, 2, 4, 4]


def test_threads_draw_what_each_alone_draws(emoji: Graph) -> None:
    pipes = [tapped(emoji, change) for change in (FreeU(), TokenMerging(), ReadFirst())]
    alone = [pictures(pipe) for pipe in pipes]
    with ThreadPoolExecutor(3) as pool:
        assert all(map(torch.equal, pool.map(pictures, pipes), alone))


@pytest.mark.parametrize("guider", ["slg", "pag", "none"])
@pytest.mark.parametrize("change", [FreeU(), TokenMerging(), ByMap(1.1)])
def test_changes_go_with_guiders(emoji: Graph, guider: str, change: sf.taps.Change) -> None:
    plain, changed = (pictures(pipe, guider=guider) for pipe in (emoji, tapped(emoji, change)))
    assert torch.isfinite(changed).all()
    assert not torch.equal(changed, plain)


def test_changes_go_with_each_other_and_with_a_control_net(emoji: Graph) -> None:
    unet = emoji.bindings["unet"].load()
    net = sf.models.ControlNetModel.from_unet(unet).eval()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for weights in net.controlnet_down_blocks.parameters():
            weights.normal_(std=0.05)
    control = emoji.insert("control", ApplyControlNet(), before="denoise.guider").bind(controlnet=net)
    given = {"control_image": torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))}
    seen = [control, tapped(control, FreeU()), tapped(tapped(control, FreeU()), TokenMerging(), "merge")]
    made = [pictures(pipe, **given) for pipe in seen]
    assert all(not torch.equal(a, b) for i, a in enumerate(made) for b in made[:i])
    before = emoji.insert("tap", ApplyTap(change=FreeU()), before="denoise.guider")
    other_order = before.insert("control", ApplyControlNet(), before="denoise.guider").bind(controlnet=net)
    assert torch.equal(pictures(other_order, **given), made[1])


# --------------------------------------------------------------------------------------------------------------- files
@pytest.mark.parametrize("change", [FreeU(version=2), TokenMerging(0.3, seed=None), Identity(), Drop(dropout=0.5)])
def test_a_shipped_change_is_saved_and_read(emoji: Graph, tmp_path: Path, change: sf.taps.Change) -> None:
    pipe = tapped(emoji, change, layers=() if isinstance(change, FreeU) else ("mid", 0), stop=0.5)
    pipe.save(tmp_path)
    block = Graph.load(tmp_path)["denoise.tap"]
    assert isinstance(block, ApplyTap) and block.config() == pipe["denoise.tap"].config()


def test_a_change_of_a_user_is_saved_only_where_a_package_has_it(emoji: Graph, tmp_path: Path) -> None:
    with pytest.raises(sf.GraphFileError, match=r"has the change '.*ByMap', which is in no installed package"):
        tapped(emoji, ByMap()).save(tmp_path)

    class Local(Usual): ...

    with pytest.raises(sf.GraphFileError, match=r"has a change that a file can only name\. .* is defined inside"):
        tapped(emoji, Local()).save(tmp_path)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (
            {"change": "FreeV"},
            r"change  No change is called 'FreeV'\. There are: Blur, Drop, FreeU, .*\. Import the module",
        ),
        (
            {"change": "FreeU", "config": {"b3": 1.0}},
            r"change  FreeU has no 'b3'\. There are: b1, b2, s1, s2, version\.",
        ),
        ({"change": "FreeU", "config": {"b1": "x"}}, r"change  FreeU takes float, got \"x\"\."),
        ({"change": "TokenMerging", "config": {"ratio": 2.0}}, r"TokenMerging\.ratio needs a number from 0 to below 1"),
        ({"name": "FreeU"}, r'needs a change: \{"change": name, "config": \{…\}\}\.'),
        ("FreeU", r'needs a change: \{"change": name, "config": \{…\}\}\.'),
        ({"change": "FreeU", "config": []}, r'needs a change: \{"change": name, "config": \{…\}\}\.'),
    ],
)
def test_a_file_with_an_unfit_change_is_refused_with_the_reason(
    emoji: Graph, tmp_path: Path, entry: Any, told: str
) -> None:
    tapped(emoji, FreeU()).save(tmp_path)
    file = tmp_path / "graph.json"
    data: Any = json.loads(file.read_text("utf-8"))
    loop = next(node for node in data["graph"]["nodes"] if node["name"] == "denoise")
    step = next(node for node in loop["graphs"]["body"]["nodes"] if node["name"] == "tap")
    step["config"]["change"] = entry
    file.write_text(json.dumps(data), "utf-8")
    with pytest.raises(sf.GraphFileError, match=told):
        Graph.load(tmp_path)


# -------------------------------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("block", "told"),
    [
        (
            ApplyTap(change=Identity(), layers=(9,)),
            r"denoise\.tap .*UNet2DConditionModel has no layer 9\. There are",
        ),
        (ApplyTap(change=FreeU(), layers=("mid",)), r"denoise\.tap .*FreeU changes the first two up levels"),
    ],
)
def test_layers_that_the_denoiser_lacks_are_refused_when_the_graph_is_made(
    emoji: Graph, block: Block, told: str
) -> None:
    with pytest.raises(sf.WireError, match=told):
        emoji.insert("tap", block, before="denoise.guider")


def test_a_pass_keeps_what_else_it_has() -> None:
    p = a_pass(role="negative", channels=(noise(3, (1, 1, 8, 8)),))
    got: list[Pass] = []
    ApplyTap(change=Usual())(predict=lambda passes: got.extend(passes) or [p.latents for p in passes]).predict([p])
    assert all(getattr(got[0], f.name) is getattr(p, f.name) for f in fields(p) if f.name != "taps")
