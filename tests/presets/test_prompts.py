"""The syntax of prompts in whole pipelines: calls, `using`, files, steps, and LoRAs that prompts name."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import sfumato as sf
from sfumato.graph.errors import GraphFileError, InputError
from sfumato.graph.events import Note, TurnFinished

FAST: dict[str, Any] = {"seed": 7, "num_inference_steps": 3, "output_type": "pt"}


@pytest.fixture(scope="module")
def pipe() -> sf.Graph:
    return sf.load("emoji")


@pytest.fixture(scope="module")
def loras(pipe: sf.Graph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two LoRAs, one of them in a folder inside."""
    folder = tmp_path_factory.mktemp("loras")
    (folder / "more").mkdir()
    generator = torch.Generator().manual_seed(0)
    for name in ("style", "more/ink"):
        tensors: dict[str, Tensor] = {}
        for component, layers in (("unet", ("to_q", "to_v")), ("text_encoder", ("q_proj", "v_proj"))):
            for path, layer in pipe.bindings[component].load().named_modules():
                if path.endswith(layers):
                    for part, shape in (("A", (4, layer.in_features)), ("B", (layer.out_features, 4))):
                        made = torch.randn(shape, generator=generator) * 0.1
                        tensors[f"{component}.{path}.lora_{part}.weight"] = made
        save_file(tensors, folder / f"{name}.safetensors")
    return folder


def draw(pipe: sf.Graph, prompt: str | list[str], **more: Any) -> Tensor:
    return pipe(prompt=prompt, **{**FAST, **more}).images


def test_rules_are_named_in_a_call_or_set_for_a_graph(pipe: sf.Graph) -> None:
    text = "a (red:1.4) fox"
    weighed = draw(pipe, text, prompts="a1111")
    assert torch.equal(weighed, draw(pipe.using(prompts=sf.prompts.A1111()), text))
    assert not torch.equal(weighed, draw(pipe, text, prompts=sf.prompts.Comfy()))
    assert not torch.equal(weighed, draw(pipe, "a red fox"))


def test_a_text_without_syntax_is_drawn_as_before(pipe: sf.Graph) -> None:
    plain = draw(pipe, "a red fox", negative_prompt="blue")
    for rules in ("a1111", "comfy"):
        assert torch.equal(draw(pipe, "a red fox", negative_prompt="blue", prompts=rules), plain)


def test_syntax_that_is_read_as_words_is_noted(pipe: sf.Graph) -> None:
    run = pipe.stream(prompt="a (red:1.4) fox", **FAST)
    notes = [event.text for event in run if isinstance(event, Note)]
    assert len(notes) == 1 and "'(red:1.4)', which is read as words" in notes[0]


def test_unknown_rules_are_refused(pipe: sf.Graph) -> None:
    with pytest.raises(InputError, match=r"takes PromptRules \| 'plain' \| 'a1111' \| 'comfy', got 'comfi'"):
        draw(pipe, "a fox", prompts="comfi")


def test_a_switch_in_the_prompt_and_in_the_negative_prompt(pipe: sf.Graph) -> None:
    settings = {"prompts": "a1111", "num_inference_steps": 4}
    switched = draw(pipe, "a [fox:cat:0.5]", negative_prompt="[blue|red]", **settings)
    assert torch.equal(switched, draw(pipe, "a [fox:cat:2]", negative_prompt="[blue|red]", **settings))
    assert torch.equal(draw(pipe, "a [fox:cat:1.0]", **settings), draw(pipe, "a fox", **settings))
    assert not torch.equal(switched, draw(pipe, "a [fox:cat:0.5]", negative_prompt="blue", **settings))


def test_each_row_of_a_batch_is_its_prompt_alone(pipe: sf.Graph) -> None:
    prompts = ["a [fox:cat:0.5]", "an (owl:1.3)", "a [red|blue] key"]
    together = draw(pipe, prompts, seed=[1, 2, 3], prompts="a1111")
    for row, prompt in enumerate(prompts):
        alone = draw(pipe, prompt, seed=row + 1, prompts="a1111")
        assert (together[row] - alone[0]).abs().max() < 1e-4


def test_several_pictures_of_prompts_that_change(pipe: sf.Graph) -> None:
    prompts = ["a [fox:cat:0.5]", "[red|blue]"]
    four = draw(pipe, prompts, seed=[1, 2, 3, 4], prompts="a1111", num_images_per_prompt=2)
    two = draw(pipe, prompts, seed=[2, 4], prompts="a1111")
    assert (four[1::2] - two).abs().max() < 1e-4


def test_each_loop_counts_its_own_steps(pipe: sf.Graph) -> None:
    image = draw(pipe, "a fox")
    paint = pipe.task("image2image")
    settings = {"image": image, "strength": 0.5, "prompts": "a1111", "num_inference_steps": 4}
    assert torch.equal(draw(paint, "[fox:cat:0.5]", **settings), draw(paint, "cat", **settings))
    assert torch.equal(draw(paint, "[fox:cat:1.0]", **settings), draw(paint, "fox", **settings))


def test_a_resumed_run_goes_on_with_the_text_of_its_step(pipe: sf.Graph) -> None:
    settings = {**FAST, "prompt": "a [fox:cat:0.5]", "prompts": "a1111", "num_inference_steps": 4}
    first = pipe.stream(**settings)
    next(event for event in first if isinstance(event, TurnFinished) and event.turn == 1)
    assert torch.equal(sf.resume(first.state).result().images, pipe(**settings).images)


def test_rules_are_saved_with_a_graph(pipe: sf.Graph, tmp_path: Path) -> None:
    for number, rules in enumerate(["comfy", sf.prompts.Comfy(), sf.prompts.A1111(comma_backtrack=3)]):
        graph = pipe.using(prompts=rules)
        graph.save(tmp_path / str(number))
        assert sf.Graph.load(tmp_path / str(number)) == graph
    with pytest.raises(GraphFileError, match="names a folder of LoRAs, which a file cannot hold"):
        pipe.using(prompts=sf.prompts.A1111(loras=tmp_path)).save(tmp_path / "loras")


def test_all_vectors_of_an_embedding_have_the_weight_of_its_word(pipe: sf.Graph, tmp_path: Path) -> None:
    width = pipe.bindings["text_encoder"].load().config.hidden_size
    vectors = torch.randn(3, width, generator=torch.Generator().manual_seed(0)) * 0.3
    save_file({"emb_params": vectors}, tmp_path / "toy.safetensors")
    toy = pipe.with_adapters(sf.load_embedding(tmp_path / "toy.safetensors"))
    plain = draw(toy, "a embedding:toy")
    assert torch.equal(draw(toy, "a (embedding:toy:1.0)", prompts="comfy"), plain)
    assert not torch.equal(draw(toy, "a (embedding:toy:1.6)", prompts="a1111"), plain)


# ------------------------------------------------------------------------------------------------- LoRAs
def test_a_lora_in_a_prompt_is_the_adapter_of_the_call(pipe: sf.Graph, loras: Path) -> None:
    rules, style = sf.prompts.A1111(loras=loras), sf.load_adapter(loras / "style.safetensors")
    for text, adapter in (
        ("a fox <lora:style:0.8>", style.scaled(0.8)),
        ("a fox <lora:style:0.8:0.2>", style.scaled(text_encoder=0.8, unet=0.2)),
        ("a fox <lora:style:unet=0>", style.scaled(unet=0.0)),
    ):
        found = draw(pipe, text, prompts=rules)
        assert torch.equal(found, draw(pipe, "a fox ", adapters=[adapter]))
        assert not torch.equal(found, draw(pipe, "a fox"))


def test_each_prompt_has_its_own_loras(pipe: sf.Graph, loras: Path) -> None:
    rules = sf.prompts.A1111(loras=loras)
    prompts = ["a fox <lora:style:0.8>", "an [owl|cat]", "a (key:1.3) <lora:more/ink:0.4> <lora:style:0.2>"]
    together = draw(pipe, prompts, seed=[1, 2, 3], prompts=rules)
    for row, prompt in enumerate(prompts):
        assert (together[row] - draw(pipe, prompt, seed=row + 1, prompts=rules)[0]).abs().max() < 1e-4


def test_a_lora_in_a_prompt_joins_those_of_the_call(pipe: sf.Graph, loras: Path) -> None:
    rules = sf.prompts.A1111(loras=loras)
    ink, style = (sf.load_adapter(loras / f"{name}.safetensors") for name in ("more/ink", "style"))
    both = draw(pipe, "a fox <lora:style:0.8>", prompts=rules, adapters=[ink])
    assert torch.equal(both, draw(pipe, "a fox ", adapters=[ink, style.scaled(0.8)]))


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("<lora:styl>", r"There is no LoRA 'styl' in .*\. Did you mean 'style'\? There are: ink, more/ink, style"),
        ("<lora:../style>", r"There is no LoRA '\.\./style'"),
        ("<lora:/etc/passwd>", r"There is no LoRA '/etc/passwd'"),
        ("<lora:style:x>", "is no LoRA with strengths"),
        ("<lora:style:1><lora:style:2>", r"names the LoRA 'style' twice\. Name it once"),
        ("<lora:style:0.5> a fox <lora:style:0.5>", r"names the LoRA 'style' twice\. Name it once"),
    ],
)
def test_a_lora_that_is_not_there_is_refused(pipe: sf.Graph, loras: Path, text: str, refused: str) -> None:
    with pytest.raises(InputError, match=refused):
        draw(pipe, text, prompts=sf.prompts.A1111(loras=loras))


def test_loras_without_a_folder_are_refused(pipe: sf.Graph, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Pass the folder of its file: prompts=sf\.prompts\.A1111\(loras=folder\)"):
        draw(pipe, "<lora:style>", prompts="a1111")
    with pytest.raises(InputError, match="is no folder"):
        draw(pipe, "<lora:style>", prompts=sf.prompts.A1111(loras=tmp_path / "none"))


def test_a_lora_in_a_negative_prompt_is_refused(pipe: sf.Graph, loras: Path) -> None:
    with pytest.raises(InputError, match="negative_prompt names a LoRA, which changes the whole picture"):
        draw(pipe, "a fox", negative_prompt="<lora:style>", prompts=sf.prompts.A1111(loras=loras))


def test_several_loras_of_one_name_and_links_are_refused(pipe: sf.Graph, loras: Path, tmp_path: Path) -> None:
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "ink.safetensors").write_bytes((loras / "more/ink.safetensors").read_bytes())
    os.symlink(loras / "style.safetensors", tmp_path / "style.safetensors")
    rules = sf.prompts.A1111(loras=tmp_path)
    with pytest.raises(InputError, match=r"several LoRAs 'ink' in .*: a/ink\.safetensors, b/ink\.safetensors\."):
        draw(pipe, "<lora:ink>", prompts=rules)
    with pytest.raises(InputError, match="'style' is a link that leads out of"):
        draw(pipe, "<lora:style>", prompts=rules)
    draw(pipe, "<lora:a/ink>", prompts=rules)


def test_a_changed_file_is_read_again(pipe: sf.Graph, loras: Path, tmp_path: Path) -> None:
    file, rules = tmp_path / "one.safetensors", sf.prompts.A1111(loras=tmp_path)
    file.write_bytes((loras / "style.safetensors").read_bytes())
    first = draw(pipe, "<lora:one>", prompts=rules)
    file.write_bytes((loras / "more/ink.safetensors").read_bytes())
    os.utime(file, (1, 1))
    assert not torch.equal(draw(pipe, "<lora:one>", prompts=rules), first)


def test_without_rules_a_lora_is_words(pipe: sf.Graph) -> None:
    run = pipe.stream(prompt="a fox <lora:style:0.8>", **FAST)
    assert any("'<lora:style:0.8>', which is read as words" in event.text for event in run if isinstance(event, Note))


def test_several_knobs_of_one_block_get_defaults_together() -> None:
    graph = sf.load("sd").using(height=64, width=128)
    assert (graph.inputs["height"].default, graph.inputs["width"].default) == (64, 128)


def test_a_knob_gets_a_default_where_another_knob_of_the_graph_is_made_by_a_node() -> None:
    assert sf.load("flux", "kontext").using(prompts="comfy").inputs["prompts"].default == "comfy"
