"""What goes wrong with repos of the Hub: each says what it was and the way out, and leaves nothing half written."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import constants, file_download

import sfumato as sf
from sfumato.components.storage import hub as storage_hub

from .hub_repos import CALL, UNET, Load, weights
from .hub_server import Hub


def _said(do: Any) -> str:
    with pytest.raises(sf.LoadError) as caught:
        do()
    return str(caught.value)


@pytest.mark.parametrize(
    ("repo", "more", "text"),
    [
        ("someone/nothing", {}, "someone/nothing: there is no such folder, and no such repo on the Hub."),
        ("someone/empty", {}, "someone/empty: no modular_model_index.json and no model_index.json. It has: nothing."),
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
        with pytest.raises(sf.LoadError, match=r"someone/emoji/unet/.*the downloaded file has the SHA-256"):
            pipe.bindings["unet"].load()
    assert list((tmp_path / "cache").rglob("unet/*.safetensors")) == []


def test_a_full_disk_is_told_before_the_download(hub: Hub, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = load("someone/emoji")
    monkeypatch.setattr(shutil, "disk_usage", _nearly_full)
    with pytest.raises(sf.LoadError, match=r"the download needs 0\.01 GB, and .* has 0\.07 GB free\. Make room"):
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


# ---------------------------------------------------------------------------------------------------- who may have it
def test_a_gated_repo_tells_those_who_are_not_known_from_those_who_may_not(
    hub: Hub, load: Load, picture: torch.Tensor
) -> None:
    page = f"Ask for access at {hub.url}/someone/gated"  # its list of files is open to all; the files are not
    assert f"is gated, and no token was sent. {page}, then run `hf auth login` or pass token=." in _said(
        lambda: load("someone/gated", token=False)
    )
    assert f"is gated, and your token has no access to it. {page}." in _said(
        lambda: load("someone/gated", token="hf_of_another")
    )
    assert torch.equal(load("someone/gated", token="hf_let_me_in")(**CALL).images, picture)


def test_a_repo_that_was_renamed_is_found_and_its_copy_too(hub: Hub, load: Load, picture: torch.Tensor) -> None:
    hub.moved["someone/former"] = "someone/emoji"
    assert torch.equal(load("someone/former")(**CALL).images, picture)
    storage_hub._opened.clear()
    assert torch.equal(load("someone/former", local_files_only=True)(**CALL).images, picture)


# ---------------------------------------------------------------------------------------------------- the disk
@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.ENOSPC, "The disk is full: make room, or pass cache_dir= on a larger one"),
        (errno.EROFS, "The cache cannot be written: pass cache_dir="),
    ],
)
def test_a_disk_that_cannot_be_written_is_told_with_its_way_out(
    hub: Hub, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, text: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    pipe = load("someone/emoji")
    with monkeypatch.context() as patched:
        patched.setattr(file_download, "http_get", fail)
        assert text in _said(pipe.bindings["unet"].load)
    assert not list((tmp_path / "cache").rglob("*.incomplete"))
    pipe.bindings["unet"].load()


# ---------------------------------------------------------------------------------------------------- stopping
def test_ctrl_c_ends_a_download_at_once_and_the_next_one_is_whole(hub: Hub, tmp_path: Path) -> None:
    hub.held[UNET] = 3_000_000
    # A shell starts programs in its background with SIGINT ignored, and they hand that on.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import sfumato as sf; "
    code += "sf.load('someone/emoji').bindings['unet'].load(); print('loaded')"
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "cache")}
    with subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.PIPE, text=True) as process:
        assert hub.waiting.wait(60)
        process.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in process.communicate(timeout=60)[1]  # the server holds it for longer
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    hub.held.clear()
    hub.go_on.set()
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.stdout == "loaded\n", done.stderr


def test_one_file_that_fails_ends_the_others(hub: Hub, load: Load) -> None:
    pipe = load("someone/shards")
    first, *others = sorted(n for n in pipe.bindings["vae"].spec.location.names("vae") if n.endswith(".safetensors"))
    hub.lie.add(f"vae/{first}")
    storage_hub._opened.clear()
    pipe = load("someone/shards")
    hub.held.update({f"vae/{name}": 1000 for name in others})
    assert "the downloaded file has the SHA-256" in _said(pipe.bindings["vae"].load)
    assert not hub.go_on.is_set()
    hub.go_on.set()


# ---------------------------------------------------------------------------------------------------- offline
@pytest.mark.parametrize(
    ("offline", "text"),
    [
        (False, "local_files_only is set, and the cache has no weights of unet. Leave local_files_only out"),
        (True, "HF_HUB_OFFLINE is set, and the cache has no weights of unet. Unset HF_HUB_OFFLINE"),
    ],
)
def test_what_the_cache_lacks_is_told_with_why_nobody_was_asked(
    hub: Hub, load: Load, monkeypatch: pytest.MonkeyPatch, offline: bool, text: str
) -> None:
    load("someone/emoji").only("positive")(prompt="a red apple")
    storage_hub._opened.clear()
    hub.forget()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    pipe = load("someone/emoji", local_files_only=not offline)
    pipe.only("positive")(prompt="a red apple")
    said = _said(lambda: pipe(**CALL))
    assert text in said and "the cache has no weights of vae" in said
    assert hub.asked == 0


def test_two_processes_fetch_into_one_cache(hub: Hub, tmp_path: Path) -> None:
    code = f"import sfumato as sf; print(float(sf.load('someone/emoji')(**{CALL!r}).images.double().sum()))"
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "cache")}
    made = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    ended = [process.communicate(timeout=60) for process in made]
    assert len({out for out, _ in ended}) == 1 and all(process.returncode == 0 for process in made), ended
    assert weights(hub).count(UNET) == 1
