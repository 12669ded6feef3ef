"""A pipeline is sent to other processes by its specs, and draws the same picture there."""

import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import sfumato as sf
from sfumato import Graph, GraphError, InputError
from sfumato.components import manager as managers
from sfumato.components.adapters.combine import combine

from .remote import FLIP, put, trusted
from .remote import kept as kept
from .test_adapters import diffusers_file

CALL: dict[str, Any] = {"prompt": "a fox", "seed": 7, "num_inference_steps": 2}


def again(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


def elsewhere(value: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The value as a process reads it that has no manager yet."""
    data = pickle.dumps(value)
    for name in ("_tokens", "_received"):
        monkeypatch.setattr(managers, name, type(getattr(managers, name))())
    monkeypatch.setattr(managers, "_default", None)
    return pickle.loads(data)


def refusal(value: Any) -> str:
    with pytest.raises(GraphError) as caught:
        pickle.dumps(value)
    return str(caught.value)


def test_another_process_draws_the_same_picture_bit_for_bit(emoji: Graph, tmp_path: Path) -> None:
    diffusers_file(emoji, file := tmp_path / "style.safetensors")
    manager = sf.ComponentsManager(budget="1GB")
    manager.offload("text_encoder", "blocks")
    plain = sf.load("emoji", manager=manager)
    pipe = plain.with_adapters(sf.load_adapter(file, scale=0.7)).using(scheduler="euler_a", guider="pag")
    with ProcessPoolExecutor(1, mp_context=torch.multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(one.only("latents"), **CALL) for one in (emoji, pipe)]
        there = [future.result().latents for future in futures]
        wrong = pool.submit(emoji, promt="a fox").exception()
        unfit = pool.submit(emoji.bind(vae=emoji.bindings["vae"].load()), **CALL).exception()
    here = [one.only("latents")(**CALL).latents for one in (emoji, pipe)]
    assert all(torch.equal(mine, other) for mine, other in zip(here, there, strict=True))
    assert isinstance(wrong, InputError) and wrong.problems[0].place == "promt"
    assert isinstance(unfit, GraphError)


def test_a_pickle_of_a_pipeline_has_specs_and_no_weights(emoji: Graph) -> None:
    emoji(**CALL)
    assert len(pickle.dumps(emoji)) < 1_000_000  # its weights are 18 MB; the manager has settings of other tests too
    back = again(emoji)
    assert back == emoji and back.bindings["unet"].load() is emoji.bindings["unet"].load()


def test_a_spec_keeps_all_that_its_loading_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = sf.ComponentSpec(
        type_hint=("diffusers", "AutoencoderKL"), pretrained_model_name_or_path="owner/name", subfolder="vae",
        revision="refs/pr/1", variant="fp16", dtype="float16", quantization="nf4",
    ).with_access(sf.Access(cache_dir="kept", allow_pickle=True))  # fmt: skip
    handle = sf.ComponentsManager().handle(spec, device="cpu:0", name="vae")
    back = elsewhere(handle, monkeypatch)
    assert (back.spec, back.spec.access, back.key, back.name) == (spec, spec.access, handle.key, "vae")


def test_the_manager_of_another_process_keeps_components_in_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = sf.ComponentsManager({"cpu": "1GB"}, dtype="bfloat16")
    manager.offload("unet", "blocks", storage="float8_e4m3fn")
    pipe = sf.load("emoji", manager=manager)
    manager.to("vae", dtype="float32")
    back = elsewhere(pipe, monkeypatch)
    there = back.bindings["vae"].manager
    assert there is not manager and again(back).bindings["vae"].manager is there
    assert (repr(there.budget), there.dtype) == (repr(manager.budget), "bfloat16")
    for name, handle in pipe.bindings.items():
        assert there.numbers_of(back.bindings[name]) == manager.numbers_of(handle)
    assert [handle.name for handle in there.search("*text*")] == ["text_encoder"]


def test_pipelines_without_a_manager_share_that_of_their_process(emoji: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    back = elsewhere(emoji, monkeypatch)
    assert back.bindings["unet"].manager is managers.default_manager() is not emoji.bindings["unet"].manager


def test_adapters_are_read_from_their_files_again(emoji: Graph, tmp_path: Path) -> None:
    diffusers_file(emoji, file := tmp_path / "style.safetensors")
    adapter = sf.load_adapter(file)
    pipe = emoji.with_adapters(adapter.scaled(0.5, unet=0.3).during(0, 0.5), adapter_named(adapter, "wide").padded(4))
    back = again(pipe)
    assert repr(back.adapters) == repr(pipe.adapters)
    assert torch.equal(back.only("latents")(**CALL).latents, pipe.only("latents")(**CALL).latents)
    file.unlink()
    data = pickle.dumps(pipe)
    with pytest.raises(sf.LoadError, match=r"style.safetensors"):
        pickle.loads(data)


def adapter_named(adapter: sf.Adapter, name: str) -> sf.Adapter:
    return sf.load_adapter(adapter.content.file or "", name=name)


def test_objects_that_no_file_has_are_refused(emoji: Graph, tmp_path: Path) -> None:
    vae = emoji.bindings["vae"].load()
    way = "with save_pretrained(folder), and bind sf.load_component(folder) in its place."
    no = "vae: a pickle has no weights, and this AutoencoderKL was"
    assert refusal(emoji.bind(vae=vae)) == f"{no} bound as an object. Save it {way}"
    added = sf.ComponentsManager().add("vae", vae)
    assert refusal(emoji.bind(vae=added)) == f"{no} added to a manager by hand. Save it {way}"
    diffusers_file(emoji, file := tmp_path / "style.safetensors")
    made = combine([sf.load_adapter(file), sf.load_adapter(file, name="other")], name="made", pipe=emoji)
    assert refusal(emoji.with_adapters(made)) == (
        "made: a pickle has no weights, and this adapter was made in memory. Save it with adapter.save(file), and "
        "attach sf.load_adapter(file) in its place."
    )
    assert refusal(emoji.stream(**CALL)).startswith("A run belongs to its process: it has leases of components there.")


def test_trust_in_code_is_not_sent(tmp_path: Path, kept: Path) -> None:
    graph = trusted(put(tmp_path, {"block.py": FLIP}))
    assert refusal(graph) == (
        "Flip: the code of this block is in a repo, and each process must trust it by itself. Load the graph in the "
        "other process: sf.load(…, trust_remote_code=…)."
    )


def test_a_memo_of_a_folder_is_that_folder_in_each_process(tmp_path: Path) -> None:
    memo = sf.memo(tmp_path, memory_bytes=5, folder_bytes=7)
    back = again(memo)
    assert (back.folder.path, back.folder.limit, back.memory_bytes) == (tmp_path, 7, 5)
    assert len(again(sf.memo())) == 0
