"""Repos of the Hub, through the real client, from a small server on this machine."""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import constants

import sfumato as sf
from sfumato.components.loading import hub as loading_hub
from sfumato.components.loading.hub import is_repo

from .hub_server import COMMIT, OLD, Hub, serving

EMOJI = Path(sf.__file__).parent / "presets/embedded/emoji"
UNET = "unet/diffusion_pytorch_model.safetensors"
MODELS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


def sharded(folder: Path) -> None:
    """Cut a model's weights in shards."""
    model = sf.models.AutoencoderKL.from_pretrained(folder)
    model.save_pretrained(folder, max_shard_size="1MB")


@pytest.fixture(scope="session")
def repos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repos that the server has: whole, sharded, with variants, in parts, and some that are not to be had."""
    root = tmp_path_factory.mktemp("hub")
    whole = shutil.copytree(EMOJI, root / "someone/emoji")
    (whole / "whole.ckpt").write_bytes(b"a pickle that nobody asked for")
    (whole / "unet/diffusion_pytorch_model.bin").write_bytes(b"another pickle")
    for name, stem in MODELS.items():  # fp16 is what lies there; the plain file is another
        shutil.copy(whole / name / f"{stem}.safetensors", whole / name / f"{stem}.fp16.safetensors")
    (whole / "safety_checker").mkdir()
    (whole / "safety_checker/model.safetensors").write_bytes(b"what no task uses")
    shutil.copytree(EMOJI, root / "someone/emoji@old")
    for name in ("private", "gated"):
        shutil.copytree(EMOJI, root / "someone" / name)
    shards = shutil.copytree(EMOJI, root / "someone/shards")
    sharded(shards / "vae")
    nested = root / "someone/nested/deep/down"
    shutil.copytree(EMOJI, nested)
    (root / "someone/empty").mkdir()
    parts = root / "someone/parts"
    for name in ("scheduler", "tokenizer", "text_encoder"):
        shutil.copytree(EMOJI / name, parts / name)
    index: dict[str, Any] = {"_class_name": "StableDiffusionModularPipeline", "_diffusers_version": "0.42.1"}
    for name, hint in json.loads((EMOJI / "model_index.json").read_text()).items():
        if isinstance(hint, list) and hint[0]:
            elsewhere = {"unet": ("someone/emoji", "old"), "vae": ("someone/shards", None)}.get(name, ("d_mod", None))
            spec = {"pretrained_model_name_or_path": elsewhere[0], "revision": elsewhere[1], "subfolder": name}
            hint = ["diffusers", "AutoModel"] if name in ("unet", "vae") else hint
            index[name] = [*hint, {**spec, "type_hint": hint, "variant": None}]
    index["image_encoder"] = [None, None, None]
    (parts / "modular_model_index.json").write_text(json.dumps(index))
    return root


@pytest.fixture
def hub(repos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Hub]:
    """The server, and this process's client pointed at it with an empty cache."""
    with serving(repos) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(loading_hub, "_opened", {})
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        yield server


@pytest.fixture
def load(hub: Hub) -> Callable[..., sf.Graph]:
    """`sf.load` with a manager of its own."""

    def call(x: str, *args: Any, **more: Any) -> sf.Graph:
        return sf.load(x, *args, manager=sf.ComponentsManager(), **more)

    return call


Load = Callable[..., sf.Graph]
CALL: dict[str, Any] = {"prompt": "a red apple", "num_inference_steps": 1, "seed": 0, "output_type": "pt"}


@pytest.fixture(scope="session")
def picture() -> torch.Tensor:
    return sf.load(EMOJI)(**CALL).images


def weights(hub: Hub) -> list[str]:
    return sorted(name for name in hub.given if name.endswith((".safetensors", ".bin", ".ckpt")))


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
    loading_hub._opened.clear()
    assert torch.equal(load("someone/emoji", local_files_only=True)(**CALL).images, picture)
    assert hub.asked == 0
    with pytest.raises(sf.LoadError, match="someone/shards: the Hub cannot be reached, and the cache has no copy"):
        load("someone/shards", local_files_only=True)


def test_weights_that_the_cache_lacks_are_named_when_the_hub_is_not_asked(hub: Hub, load: Load) -> None:
    load("someone/emoji")
    pipe = load("someone/emoji", local_files_only=True)
    with pytest.raises(sf.LoadError) as caught:
        pipe(**CALL)
    text = str(caught.value)
    assert text.startswith("(5 components)\n") and "someone/emoji/unet has no weights" in text


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
    assert "is no file of the Hub at" in _said(lambda: sf.load("https://elsewhere.example/a/b/blob/main/c.safetensors"))
    assert "has no file 'unet/other.safetensors'" in _said(lambda: sf.load("someone/emoji/unet/other.safetensors"))


def _said(do: Callable[[], object]) -> str:
    with pytest.raises(sf.LoadError) as caught:
        do()
    return str(caught.value)


# ---------------------------------------------------------------------------------------------------- what goes wrong
@pytest.mark.parametrize(
    ("repo", "more", "text"),
    [
        ("someone/nothing", {}, "someone/nothing: there is no such folder here, and no such repo on the Hub."),
        ("someone/empty", {}, "someone/empty: no modular_model_index.json and no model_index.json. It has: nothing."),
        ("someone/gated", {}, "someone/gated: the repo is gated. Ask for access on its page"),
        ("someone/emoji", {"revision": "v9"}, "someone/emoji: there is no revision 'v9'. Leave it out for the newest."),
        ("someone/emoji", {"variant": "bf16"}, "There is no variant 'bf16' of "),
        ("someone/emoji", {"subfolder": "deep"}, "someone/emoji/deep: no modular_model_index.json"),
    ],
)
def test_a_repo_that_cannot_be_had_says_why(hub: Hub, load: Load, repo: str, more: Any, text: str) -> None:
    with pytest.raises(sf.LoadError) as caught:
        load(repo, **more)
    assert str(caught.value).startswith(text)


def test_a_dropped_connection_is_taken_up_where_it_broke(hub: Hub, load: Load, picture: torch.Tensor) -> None:
    hub.drop[UNET] = 12_000_000  # the client keeps what came in pieces of 10 MiB
    assert torch.equal(load("someone/emoji")(**CALL).images, picture)
    assert UNET in hub.ranges


def test_a_file_that_comes_short_is_refused_and_nothing_half_is_left(
    hub: Hub, load: Load, picture: torch.Tensor, tmp_path: Path
) -> None:
    hub.cut[UNET] = 100_000
    pipe = load("someone/emoji")
    with pytest.raises(sf.LoadError, match="someone/emoji: the download failed"):
        pipe(**CALL)
    assert list((tmp_path / "cache").rglob("diffusion_pytorch_model.safetensors")) == []
    hub.cut.clear()
    assert torch.equal(pipe(**CALL).images, picture)


def test_a_file_with_another_hash_is_refused_and_removed(hub: Hub, load: Load, tmp_path: Path) -> None:
    hub.lie.add(UNET)
    pipe = load("someone/emoji")
    for _ in range(2):  # it is not taken from the cache the next time
        with pytest.raises(sf.LoadError, match=r"someone/emoji/unet/.*what came has the SHA-256"):
            pipe.bindings["unet"].load()
    assert list((tmp_path / "cache").rglob("unet/*.safetensors")) == []


def test_a_full_disk_is_told_before_the_download(hub: Hub, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = load("someone/emoji")
    monkeypatch.setattr(shutil, "disk_usage", _nearly_full)
    with pytest.raises(sf.LoadError, match=r"0\.01 GB are to be fetched, and .* has 0\.07 GB left\. Make room"):
        pipe.bindings["unet"].load()
    assert weights(hub) == []


def _nearly_full(_path: Path) -> Any:  # shutil's named tuple
    return SimpleNamespace(free=70 * 2**20)


def test_a_hub_out_of_reach_says_so(hub: Hub, load: Load) -> None:
    hub.shutdown()
    hub.server_close()
    with pytest.raises(sf.LoadError, match="someone/emoji: the Hub cannot be reached, and the cache has no copy"):
        load("someone/emoji")


def test_the_endpoint_of_the_environment_is_asked(hub: Hub, tmp_path: Path) -> None:
    code = "import sfumato as sf; print(sf.load('someone/emoji').preset)"
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert done.stdout.strip() == "('sd', 'text2image')", done.stderr


def test_names_of_repos() -> None:
    assert is_repo("owner/name.v1-5")
    assert not is_repo("owner/name/more") and not is_repo("owner/../x") and not is_repo("..%2f/x")
