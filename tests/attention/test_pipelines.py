"""`attention=` of calls and graphs: with adapters, taps, caches, engines, runs side by side, files and training."""

import json
import logging
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sfumato as sf
from sfumato import ConfigError, Graph, InputError
from sfumato.blocks.control.taps import ApplyTap
from sfumato.components.attention import AttentionBackend, Math, Sliced, UsedAttention
from sfumato.components.kernels.kernel import Kernel
from sfumato.components.models.attention import Attention, AttentionCore
from sfumato.components.models.views import shallow_copy
from sfumato.components.storage.building import on_meta
from sfumato.registry import attention_backends, models

from ..engines.conftest import Recorder, lora, pictures


class Own(AttentionBackend):
    """Computes what torch's choice computes, with another name."""

    name: ClassVar[str] = "own"
    package: ClassVar[str] = ""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def used(graph: Graph, attention: Any) -> UsedAttention:
    """What a backend did for the denoiser."""
    return sf.attention.report(graph.using(attention=attention))["unet"]


def test_a_call_and_a_graph_with_a_backend(pipe: Graph) -> None:
    """`math` within 1e-5 of the range from 0 to 1; slices of heads are exact."""
    plain = pictures(pipe)
    sliced = Sliced(0.01)
    set_once = pipe.using(attention=sliced)
    assert torch.equal(pictures(pipe, attention=sliced), plain) and torch.equal(pictures(set_once), plain)
    assert (pictures(pipe, attention={"unet": "math", "vae": None}) - plain).abs().max() <= 1e-5
    assert used(pipe, {"unet": "math"}).report.ran == used(pipe, sliced).report.ran / 2 > 0
    assert set_once != pipe and set_once == pipe.using(attention=Sliced(0.01))
    assert set_once.using(attention=None) == pipe == set_once.using(attention={"unet": None, "vae": None})
    assert not sf.attention.report(pipe)


def test_a_backend_is_inside_of_all_other_changes(pipe: Graph, unet: nn.Module) -> None:
    own, with_own = Own(), pipe.using(attention=Own())
    calls: list[dict[str, Any]] = [
        {"adapters": [lora(unet, 1)]}, {"guider": "PerturbedAttentionGuidance"}, {"guider": "seg"}
    ]  # fmt: skip
    for call in calls:
        assert torch.equal(pictures(with_own, **call), pictures(pipe, **call))
    tap = ApplyTap(change=sf.taps.TokenMerging(ratio=0.5))
    assert torch.equal(*(pictures(g.insert("tap", tap, before="denoise.guider")) for g in (with_own, pipe)))
    before = used(pipe, own).report.ran
    assert torch.equal(*(pictures(g.cached("pyramid_attention")) for g in (with_own, pipe)))
    assert used(pipe, own).report.ran > before


def test_image_prompts_are_attended_to_by_the_backend() -> None:
    from sfumato.components.models.image_attention import HeldTokens, ImageAttention, LayerImages

    layer = ImageAttention()
    held = HeldTokens((4, 4))
    held.layers = (torch.randn(1, 3, 16), torch.randn(1, 3, 16))
    layer.__dict__["images"] = (LayerImages(held, 0, 1.0, None),)
    asked: list[int] = []

    def kernel(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        asked.append(k.shape[2])
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    layer.__dict__["kernel"] = kernel
    q, k, v = (torch.randn(1, 2, n, 8) for n in (16, 5, 5))
    layer.scaled_dot_product(q, k, v, None)
    assert asked == [5, 3]


def test_an_engine_records_the_backend(pipe: Graph, recorder: Recorder) -> None:
    engine = sf.engines.Graphs(recorder=recorder)
    fast = pipe.optimize(engine)
    both = fast.using(attention="math")
    assert both == pipe.using(attention="math").optimize(engine) and both != fast
    assert torch.equal(pictures(both), pictures(pipe, attention="math"))
    assert torch.equal(pictures(fast, attention="math"), pictures(both))
    report = sf.engines.report(both)["unet"].report
    assert report.ran and not report.fell_back
    assert sf.engines.report(fast)["unet"].report.ran == 0


def test_a_backend_is_compiled_in(unet: nn.Module) -> None:
    """One attention, traced and run as it is: no graph is broken, and the report of the backend does not count."""
    kernel = Kernel(Sliced(0.0001), "unet")
    layer = next(part for part in unet.modules() if isinstance(part, Attention))
    sliced = shallow_copy(layer)
    sliced.__dict__["kernel"] = kernel
    x = torch.randn(2, 9, layer.to_q.in_features, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(sliced, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x), atol=1e-6, rtol=0)
    assert kernel.report.ran == 0


def test_an_engine_with_its_own_attention_refuses_a_backend(pipe: Graph) -> None:
    text = "unet has the attention 'math', and openvino has its own. Write using(attention=None) first."
    with pytest.raises(ConfigError, match="openvino cannot run") as caught:
        pipe.using(attention="math").optimize("openvino", components="unet")
    assert text in str(caught.value)
    with pytest.raises(ConfigError, match="unet: openvino has its own attention"):
        pipe.optimize("openvino", components="unet").using(attention={"unet": "math"})


def test_runs_side_by_side(pipe: Graph) -> None:
    """Runs of one backend share forwards, and so do those of no backend. Each is as alone."""
    alone = {name: pictures(pipe, attention=name) for name in (None, "math")}
    before = used(pipe, "math").report.ran
    runs = [pipe.stream(**_CALL, attention=name) for name in (None, "math", "math")]
    sf.together(runs)
    for run, name in zip(runs, (None, "math", "math"), strict=True):
        made = torch.stack([torch.as_tensor(one) for one in run.outputs.images])
        torch.testing.assert_close(made, alone[name], atol=1e-5, rtol=0)
    assert 0 < used(pipe, "math").report.ran - before <= used(pipe, "math").report.ran / 2


_CALL: dict[str, Any] = {"prompt": "a fox", "seed": 7, "num_inference_steps": 2, "output_type": "pt"}


def test_threads_with_other_backends_do_not_disturb_each_other(pipe: Graph) -> None:
    ways = [None, "math", Sliced(0.001), "math"]
    expected = [pictures(pipe, attention=one) for one in ways]
    with ThreadPoolExecutor(4) as pool:
        made = [run.result() for run in [pool.submit(pictures, pipe, attention=one) for one in ways]]
    assert all(torch.equal(a, b) for a, b in zip(made, expected, strict=True))


def test_files_pickles_and_keys(tmp_path: Path, emoji: Graph) -> None:
    pipe = emoji
    sliced = pipe.using(attention="sliced")
    for name, graph in (("plain", pipe), ("sliced", sliced)):
        graph.save(tmp_path / name)
    plain, saved = (json.loads((tmp_path / name / "graph.json").read_text()) for name in ("plain", "sliced"))
    assert plain == saved
    assert pickle.loads(pickle.dumps(sliced)) == sliced
    keys = {graph.bindings["unet"].content_key() for graph in (pipe, sliced, pipe.using(attention="math"))}
    assert len(keys) == 3


def test_a_replay_names_the_backend_of_a_picture(tmp_path: Path, emoji: Graph, recorder: Recorder) -> None:
    """A record of a graph with a backend or an engine has the components themselves."""
    ways = {
        " with Math()": emoji.using(attention={"unet": "math"}),
        " by Graphs(compiled=None, ": emoji.optimize(sf.engines.Graphs(recorder=recorder)),
    }
    for number, (name, graph) in enumerate(ways.items()):
        file = tmp_path / f"{number}.png"
        graph(prompt="a fox", seed=7, num_inference_steps=2).images[0].save(file)
        assert f"were float32 cpu None{name}" in str(sf.replay(file))


def test_a_plan_counts_the_same_operations(pipe: Graph) -> None:
    call = {"prompt": "a fox", "num_inference_steps": 2}
    assert pipe.plan(**call, attention="sliced").flops == pipe.plan(**call).flops


def test_a_manager_may_drop_the_model() -> None:
    manager = sf.ComponentsManager()
    pipe = sf.load("emoji", manager=manager).using(attention="sliced")
    first = pictures(pipe)
    assert manager.free() > 0
    assert torch.equal(pictures(pipe), first)


def test_a_paused_run_goes_on_with_its_backend(pipe: Graph) -> None:
    run = pipe.stream(**_CALL, attention="math")
    for event in run:
        if isinstance(event, sf.events.StepFinished):
            break
    made = sf.resume(run.pause()).result().images
    assert torch.equal(torch.stack([torch.as_tensor(one) for one in made]), pictures(pipe, attention="math"))


def test_merged_adapters_keep_the_backend(pipe: Graph, unet: nn.Module) -> None:
    with_lora = pipe.with_adapters(lora(unet, 1))
    merged = with_lora.using(attention=Own()).merged()
    assert torch.equal(pictures(merged), pictures(with_lora.merged()))
    assert sf.attention.report(merged)["unet"].report.ran


def test_gradients_flow_through_a_graph_with_a_backend(pipe: Graph) -> None:
    found: list[Tensor] = []
    for attention in (None, "math"):
        latents = torch.ones(1, 8, 8, 8, requires_grad=True)
        with sf.gradients():
            pipe.only("images")(**_CALL, latents=latents, attention=attention).images.sum().backward()
        assert latents.grad is not None
        found.append(latents.grad)
    torch.testing.assert_close(*found, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("attention", "text"),
    [
        ("slicedd", "needs a backend, got 'slicedd'. Did you mean 'sliced'?"),
        (3, "needs a backend, got 3. Pass one of cudnn,"),
        ("_flash_3_hub", "needs a backend, got '_flash_3_hub'. No kernels are downloaded from the Hub."),
        ({"unit": "math"}, "the graph has no component 'unit'. Did you mean 'unet'?"),
        ({"tokenizer": "math"}, "these components cannot have it.\n  tokenizer: CLIPTokenizer has no attention that"),
        ("cudnn", "no component of this graph can have cudnn.\n  unet: cudnn runs on cuda, not on cpu."),
        ("xformers", "xformers needs the package xformers, which is not installed. Install it: pip install xformers."),
    ],
)  # fmt: skip
def test_errors_say_what_to_do(pipe: Graph, attention: Any, text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        pipe.using(attention=attention)
    assert str(refused.value).startswith(f"attention: {text}")
    with pytest.raises(InputError) as caught:
        pipe(prompt="a fox", attention=attention)
    assert str(caught.value).startswith(f"attention  {text}")


def test_a_refused_layer_is_logged_once(pipe: Graph, caplog: pytest.LogCaptureFixture) -> None:
    class Narrow(Math):
        name: ClassVar[str] = "narrow"
        largest_head: ClassVar[int | None] = 4

    with caplog.at_level(logging.INFO, "sfumato"):
        pictures(pipe, attention={"unet": Narrow()})
    assert [r.getMessage() for r in caplog.records if "narrow" in r.getMessage()] == [
        "unet: attention by sdpa, since narrow takes heads of at most 4 channels, not 8."
    ]


def test_a_backend_of_a_user_has_a_name(pipe: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_backends, "_table", {**attention_backends._table})  # pyright: ignore[reportPrivateUsage]
    sf.attention.register(Own)
    assert pipe.using(attention="own") == pipe.using(attention=Own())


def test_a_name_that_gets_another_class_leads_to_it_and_its_results_have_other_keys(
    pipe: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_backends, "_table", {**attention_backends._table})  # pyright: ignore[reportPrivateUsage]
    memo, kept = sf.memo(), []

    class Again(Own):
        def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
            return super().attend(q, k, v, mask) * 0.5

    Again.__qualname__ = Own.__qualname__
    for kind in (Own, Again):  # as in a notebook whose cell is run again
        sf.attention.register(kind)
        kept.append(pictures(pipe, attention="own", memo=memo))
    assert torch.equal(kept[1], pictures(pipe, attention=Again())) and not torch.equal(kept[0], kept[1])


@pytest.mark.parametrize("name", ["native", "_native_math", "_native_flash", "_native_cudnn", "_flash_3", "xformers"])
def test_published_names_are_known(name: str) -> None:
    assert attention_backends[name]().name in attention_backends


@pytest.mark.parametrize("name", [*models])
def test_models_know_whether_they_take_a_backend(name: str) -> None:
    kind: Any = models[name]
    few = {"num_layers": 1, "num_single_layers": 1, "num_hidden_layers": 1, "depth": 1, "addition_time_embed_dim": 8}
    known = kind.config_class.model_fields
    with on_meta():
        model = kind(**{key: value for key, value in few.items() if key in known})
    assert kind.takes_backend == any(isinstance(part, AttentionCore) for part in model.modules())
