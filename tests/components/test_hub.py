"""Repos of the Hub, through the real client, from a small server on this machine."""

import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

import sfumato as sf
from sfumato.components.storage import hub as storage_hub
from sfumato.components.storage.hub import is_repo
from sfumato.presets.cli.app import app

from .hub_repos import CALL, EMOJI, MODELS, UNET, Load, weights
from .hub_server import COMMIT, OLD, Hub


# ---------------------------------------------------------------------------------------------------- what is fetched
def test_a_repo_gives_a_pipeline_and_only_what_it_needs_is_fetched_once(
    hub: Hub, load: Load, picture: torch.Tensor
) -> None:
    pipe = load("someone/emoji")
    assert weights(hub) == []  # they come at their first use
    assert torch.equal(pipe(**CALL).images, picture)
    stems = [f"{name}/{stem}.safetensors" for name, stem in MODELS.items()]
    assert weights(hub) == sorted(stems)
    assert len(hub.given) == len(set(hub.given))
    hub.forget()
    assert torch.equal(load("someone/emoji")(**CALL).images, picture)
    assert (hub.given, hub.asked) == ([], 1)  # one question: which commit


def test_what_a_part_of_a_graph_does_not_use_is_not_fetched(hub: Hub, load: Load) -> None:
    load("someone/emoji").only("positive")(prompt="a red apple")
    assert weights(hub) == ["text_encoder/model.safetensors"]


def test_checking_a_graph_fetches_no_weights(hub: Hub, load: Load) -> None:
    assert load("someone/emoji").check() == []
    assert weights(hub) == []


def test_a_variant_is_fetched_in_place_of_the_plain_files(hub: Hub, load: Load, picture: torch.Tensor) -> None:
    assert torch.equal(load("someone/emoji", variant="fp16")(**CALL).images, picture)
    assert weights(hub) == sorted(f"{name}/{stem}.fp16.safetensors" for name, stem in MODELS.items())


def test_the_command_line_names_a_revision_and_a_variant(hub: Hub, tmp_path: Path) -> None:
    which = ["--revision", "old", "--variant", "fp16"]
    shown = CliRunner().invoke(app, ["inspect", "someone/emoji", "--variant", "fp16", "--json"])
    assert shown.exit_code == 0 and json.loads(shown.stdout)["family"] == "sd"
    refused = CliRunner().invoke(app, ["check", "someone/emoji", *which])
    assert refused.exit_code == 1 and "no variant 'fp16'" in refused.stderr  # the old commit has none
    few = ["--set", "num_inference_steps=1", "-o", str(tmp_path / "fox.png")]
    drawn = CliRunner().invoke(app, ["run", "a fox", "--model", "someone/emoji", "--variant", "fp16", *few])
    assert drawn.exit_code == 0, drawn.stderr
    assert weights(hub) == sorted(f"{name}/{stem}.fp16.safetensors" for name, stem in MODELS.items())
    with Image.open(tmp_path / "fox.png") as image:
        graph = json.loads(image.info["sfumato"])["graph"]["graph"]
    assert graph["components"]["unet"]["variant"] == "fp16"


def test_a_local_folder_never_asks_the_hub(hub: Hub, load: Load) -> None:
    load(str(EMOJI))(**CALL)
    assert hub.asked == 0


def test_what_is_pinned_is_a_commit(hub: Hub, load: Load, tmp_path: Path, picture: torch.Tensor) -> None:
    pipe = load("someone/emoji", revision="old")
    assert pipe.bindings["unet"].spec.revision == OLD
    assert load("someone/emoji").bindings["unet"].spec.revision == COMMIT
    pipe.save(tmp_path / "mine")
    entry = json.loads((tmp_path / "mine/graph.json").read_text())["graph"]["components"]["unet"]
    assert (entry["pretrained_model_name_or_path"], entry["revision"]) == ("someone/emoji", OLD)
    assert torch.equal(load(str(tmp_path / "mine"))(**CALL).images, picture)


def test_a_folder_inside_a_repo(hub: Hub, load: Load, picture: torch.Tensor) -> None:
    assert torch.equal(load("someone/nested", subfolder="deep/down")(**CALL).images, picture)
    assert all(name.startswith("deep/down/") for name in hub.given)


def test_an_index_over_several_repos_with_hints_that_name_no_class(hub: Hub, load: Load, picture: torch.Tensor) -> None:
    pipe = load("someone/parts")
    assert pipe.bindings["unet"].type is sf.models.UNet2DConditionModel
    assert weights(hub) == []
    assert torch.equal(pipe(**CALL).images, picture)
    assert [name for name in weights(hub) if "00001-of-" in name], "the shards of another repo"


def test_the_cache_serves_where_the_hub_is_not_asked(hub: Hub, load: Load, picture: torch.Tensor) -> None:
    load("someone/emoji")(**CALL)
    hub.forget()
    storage_hub._opened.clear()
    assert torch.equal(load("someone/emoji", local_files_only=True)(**CALL).images, picture)
    assert hub.asked == 0
    with pytest.raises(sf.LoadError, match="someone/shards: local_files_only is set, and the cache has no copy"):
        load("someone/shards", local_files_only=True)


def test_weights_that_the_cache_lacks_are_named_when_the_hub_is_not_asked(hub: Hub, load: Load) -> None:
    load("someone/emoji")
    pipe = load("someone/emoji", local_files_only=True)
    with pytest.raises(sf.LoadError) as caught:
        pipe(**CALL)
    text = str(caught.value)
    assert text.startswith("(4 components)\n") and "the cache has no weights of unet" in text


def test_eight_threads_fetch_each_file_once(hub: Hub, picture: torch.Tensor) -> None:
    manager, together = sf.ComponentsManager(), threading.Barrier(8)

    def one(_: int) -> torch.Tensor:
        together.wait()
        return sf.load("someone/shards", manager=manager)(**CALL).images

    with ThreadPoolExecutor(8) as pool:
        assert all(torch.equal(images, picture) for images in pool.map(one, range(8)))
    assert len(hub.given) == len(set(hub.given)) and len(manager) == 5


def test_a_cache_elsewhere_and_fetching_anew(hub: Hub, load: Load, tmp_path: Path) -> None:
    load("someone/emoji", cache_dir=tmp_path / "mine")(**CALL)
    assert (tmp_path / "mine").is_dir() and not (tmp_path / "cache").exists()
    hub.forget()
    load("someone/emoji", cache_dir=tmp_path / "mine", force_download=True)(**CALL)
    assert UNET in hub.given and len(hub.given) == len(set(hub.given))


def test_a_token_opens_a_private_repo_and_is_written_nowhere(hub: Hub, load: Load, tmp_path: Path) -> None:
    with pytest.raises(sf.LoadError, match=r"no such repo on the Hub\. Check the name; for a private repo"):
        load("someone/private")
    pipe = load("someone/private", token="hf_let_me_in")
    pipe(**CALL)
    pipe.save(tmp_path / "mine")
    said = repr(pipe.bindings["unet"].spec) + repr(pipe.bindings["unet"]) + (tmp_path / "mine/graph.json").read_text()
    assert "let_me_in" not in said + repr(pipe.bindings["unet"].spec.access)


def test_inspecting_a_repo_reads_the_headers_of_its_weights_and_no_more(hub: Hub) -> None:
    found, local = sf.inspect("someone/emoji"), sf.inspect(str(EMOJI))
    assert weights(hub) == [] and UNET in hub.ranges
    assert found.missing == () and found.family == "sd"
    told = {part.name: part for part in found.components}
    for part in local.components:
        if part.used:
            assert (part.dtype, part.bytes, part.parameters) == (
                told[part.name].dtype, told[part.name].bytes, told[part.name].parameters
            )  # fmt: skip
    hub.forget()
    shards = {part.name: part for part in sf.inspect("someone/shards").components}["vae"]
    assert shards.parameters == told["vae"].parameters and weights(hub) == []
    assert "no variant 'bf16'" in _said(lambda: sf.inspect("someone/emoji", variant="bf16"))


def test_one_component_and_one_file_of_a_repo(hub: Hub, tmp_path: Path) -> None:
    unet = sf.load_component("someone/emoji", subfolder="unet", manager=sf.ComponentsManager())
    assert isinstance(unet, sf.models.UNet2DConditionModel) and weights(hub) == [UNET]
    alone = sf.load_component(f"someone/emoji/{UNET}", manager=sf.ComponentsManager(), config=unet.to_config())
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), unet.parameters(), strict=True))
    address = f"{hub.url}/someone/emoji/blob/old/{UNET}"
    older = sf.load_component(address, manager=sf.ComponentsManager(), config=unet.to_config())
    assert torch.equal(next(older.parameters()), next(unet.parameters()))
    assert "is not a repo or a file of the Hub at" in _said(
        lambda: sf.load("https://elsewhere.example/a/b/blob/main/c.safetensors")
    )
    assert "has no file 'unet/other.safetensors'" in _said(lambda: sf.load("someone/emoji/unet/other.safetensors"))


def _said(do: Callable[[], object]) -> str:
    with pytest.raises(sf.LoadError) as caught:
        do()
    return str(caught.value)


def test_names_of_repos() -> None:
    assert is_repo("owner/name.v1-5")
    assert not is_repo("owner/name/more") and not is_repo("owner/../x") and not is_repo("..%2f/x")


def test_an_address_as_a_browser_shows_it_is_a_repo_at_a_revision(hub: Hub, load: Load) -> None:
    assert load(f"{hub.url}/someone/emoji").bindings["unet"].spec.revision == COMMIT
    assert load(f"{hub.url}/someone/emoji/tree/old").bindings["unet"].spec.revision == OLD
    assert "is not a repo or a file of the Hub" in _said(lambda: load("https://elsewhere.example/a/b"))


def test_a_class_finds_its_component_in_a_whole_pipeline(hub: Hub, load: Load) -> None:
    # The last has it in another repo, and its hint is AutoModel.
    for source in ("someone/emoji", EMOJI, "emoji", "someone/parts"):
        found = sf.load_component(source, "AutoencoderKL", manager=sf.ComponentsManager())
        assert isinstance(found, sf.models.AutoencoderKL)
    assert {name.partition("/")[0] for name in weights(hub)} == {"vae"}
    said = _said(lambda: sf.load_component("someone/emoji", "FluxTransformer2DModel"))
    assert said.startswith("someone/emoji: has no FluxTransformer2DModel. It has: scheduler (DDIMScheduler), ")
    said = _said(lambda: sf.load_component("someone/emoji"))
    assert said.startswith("someone/emoji: is a whole pipeline. Pass subfolder='unet' or the like, or a class. It")


def test_a_variant_is_asked_of_a_saved_graph_too(hub: Hub, load: Load, repos: Path, tmp_path: Path) -> None:
    load("someone/emoji").save(tmp_path / "saved")
    pipe = load(str(tmp_path / "saved"), variant="fp16")
    assert {pipe.bindings[name].spec.variant for name in MODELS} == {"fp16"}
    assert "no variant 'bf16'" in _said(lambda: load(str(tmp_path / "saved"), variant="bf16"))


def test_inspecting_a_component_and_a_saved_graph_of_a_repo(hub: Hub, repos: Path) -> None:
    shutil.copytree(EMOJI / "vae", repos / "someone/vae", dirs_exist_ok=True)
    found = sf.inspect("someone/vae")
    assert [(p.name, p.class_name, p.dtype) for p in found.components] == [("vae", "AutoencoderKL", "float16")]
    assert found.missing == () and weights(hub) == []
    pipe = sf.load("emoji")
    pipe.bind({"vae": pipe.bindings["vae"].load()}).save(repos / "someone/graph")  # writes it beside graph.json
    told = {part.name: part for part in sf.inspect("someone/graph").components}["vae"]
    assert told.source == "someone/graph/vae" and told.missing == () and weights(hub) == []


def test_the_image_encoder_beside_the_file_of_a_repo_is_found(hub: Hub, load: Load, repos: Path) -> None:
    folder = repos / "someone/prompts/models"
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    encoder = sf.models.CLIPVisionModelWithProjection(**sizes, image_size=32, patch_size=16, projection_dim=16)
    encoder.save_pretrained(folder / "image_encoder")
    unet = sf.load("emoji").bindings["unet"].load()
    channels = [unet.get_submodule(path).to_q.out_features for path in unet.numbered_attention()[1::2]]
    adapter = sf.models.ImagePromptAdapter(image_width=16, token_width=128, channels=channels)
    save_file(adapter.state_dict(), folder / "ip-adapter.safetensors")
    pipe = load("someone/emoji", ip_adapter="someone/prompts/models/ip-adapter.safetensors")
    found = pipe.bindings["image_encoder"].spec
    assert (found.pretrained_model_name_or_path, found.subfolder) == ("someone/prompts", "models/image_encoder")
    assert not any("image_encoder" in name for name in weights(hub))  # they are fetched at their first use
