"""Compiled blocks: equal results, and nothing compiled again at one shape."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

import sfumato as sf
from sfumato import ConfigError, Graph
from sfumato.components.engines.compiled import repeated_blocks
from sfumato.components.models import FluxTransformer2DModel
from sfumato.components.storage.building import on_meta

from .conftest import Changes, Recorder, lora, pictures, used


def test_blocks_that_a_model_repeats_are_its_residual_and_transformer_blocks(unet: nn.Module) -> None:
    assert sorted(repeated_blocks(unet))[:2] == [
        "down_blocks.0.attentions.0.transformer_blocks.0", "down_blocks.0.resnets.0",
    ]  # fmt: skip
    with on_meta():
        flux = FluxTransformer2DModel(num_layers=2, num_single_layers=3)
    names = [path.rpartition(".")[0] for path in repeated_blocks(flux)]
    assert names == ["transformer_blocks"] * 2 + ["single_transformer_blocks"] * 3


def test_twenty_changes_at_one_shape_compile_nothing_again(
    pipe: Graph, unet: nn.Module, twenty_changes: Changes
) -> None:
    """The compiler here runs the traced operations as they are, so that results are equal bit for bit."""
    fast = pipe.optimize("compile", backend="eager")
    warm_up = pictures(fast), pictures(fast, adapters=[lora(unet, 3)])
    made = used(fast).made
    assert len(warm_up) == 2 and made > 0
    for change, expected in twenty_changes:
        assert torch.equal(pictures(fast, **change), expected), change
    assert used(fast).made == made
    assert not used(fast).fell_back


def test_steps_that_a_cache_computes_run_compiled_blocks(pipe: Graph) -> None:
    """Of six blocks a skipped step runs one, in which no form is new."""
    fast = pipe.optimize("compile", backend="eager", shapes="fixed")
    cache = sf.caches.DeepCacheConfig(cache_interval=2)
    assert torch.equal(pictures(fast.cached(cache)), pictures(pipe.cached(cache)))
    blocks = len(list(repeated_blocks(fast.bindings["unet"].base)))
    assert 0 < used(fast).ran - blocks < blocks
    assert used(fast).made == 3 and not used(fast).fell_back


def test_blocks_of_one_form_share_one_artefact(unet: nn.Module, pipe: Graph) -> None:
    """Two forms of residual blocks (16 and 32 channels in) and one of transformer blocks."""
    fast = pipe.optimize("compile", backend="eager", shapes="fixed")
    pictures(fast)
    assert used(fast).made == 3
    assert used(fast).ran == 2 * len(list(repeated_blocks(unet)))


def test_a_block_with_other_layers_runs_with_torch_and_the_others_stay_compiled(pipe: Graph) -> None:
    """The compiled blocks are those of `Max`, in recorded forwards."""
    recorder = Recorder()
    engine = sf.engines.Max(recorder=recorder, compiled=sf.engines.Compile(backend="eager"))
    fast = pipe.optimize(engine)
    call = {"guider": "PerturbedAttentionGuidance"}
    assert torch.equal(pictures(fast, **call), pictures(pipe, **call))
    assert recorder.recorded == [1]
    whole, block = used(fast).fell_back
    assert whole.startswith("the call changes layers: mid_block.attentions.0.")
    assert block == "the call changes layers of mid_block.attentions.0.transformer_blocks.0"


def test_artefacts_are_kept_in_a_folder_and_the_environment_is_as_before(
    pipe: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler is a fake, which finds each artefact but the first in the folder."""
    name, folders, compiler = "TORCHINDUCTOR_CACHE_DIR", list[str | None](), ModuleType("compile_fx")

    def compile_fx(graph: GraphModule, inputs: object, config_patches: object) -> Callable[..., Any]:
        torch._dynamo.utils.counters["inductor"]["fxgraph_cache_hit"] += bool(folders)
        folders.append(os.environ.get(name))
        return graph.forward

    compiler.__dict__["compile_fx"] = compile_fx
    monkeypatch.setitem(sys.modules, "torch._inductor.compile_fx", compiler)
    monkeypatch.setenv(name, str(tmp_path / "own"))
    fast = pipe.optimize("compile", shapes="fixed", cache=tmp_path / "artefacts")
    assert torch.equal(pictures(fast), pictures(pipe))
    assert folders == [str(tmp_path / "artefacts")] * 3
    assert os.environ[name] == str(tmp_path / "own")
    assert (used(fast).made, used(fast).read) == (1, 2)
    plain = sf.engines.Compile(shapes="fixed")
    assert fast.bindings["unet"].engine.key == plain.key


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"shapes": "any"}, "compile: shapes needs one of automatic, fixed, dynamic. Got 'any'."),
        ({"shape": "fixed"}, "optimize: compile has no setting 'shape'. Did you mean 'shapes'?"),
    ],
)  # fmt: skip
def test_unfit_settings_are_refused(pipe: Graph, settings: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        pipe.optimize("compile", **settings)
    assert str(caught.value).startswith(text)
