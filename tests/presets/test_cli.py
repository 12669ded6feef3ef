"""The command line, as its users meet it."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image
from typer.testing import CliRunner

import sfumato as sf
from sfumato.presets.cli.app import app

from .flux import flux_checkpoint as flux_checkpoint
from .sd3 import sd3_checkpoint as sd3_checkpoint

ENV = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
}  # two threads that wait for each other beside other tests take 10 times as long
FEW = ("--set", "num_inference_steps=2")


class Said(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:  # JSON values
        return json.loads(self.out)


def sfumato(*args: str | Path) -> Said:
    """Run a command in this process."""
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Said(result.exit_code, result.stdout, result.stderr)


def process(args: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, env=ENV, timeout=300, check=False)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings(path: Path) -> Any:  # JSON values
    with Image.open(path) as image:
        return json.loads(image.info["sfumato"])


def test_a_prompt_becomes_a_file_that_carries_its_settings(here: Path) -> None:
    said = sfumato("run", "a red apple", "-o", "apple.png", "--seed", "7", *FEW)
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("apple.png  (64x64, ") and said.out.endswith(" s, seed 7)\n")
    told = settings(here / "apple.png")
    assert told["model"] == "emoji" and told["task"] == "text2image"
    assert told["inputs"]["prompt"] == "a red apple" and told["inputs"]["seed"] == 7
    assert told["inputs"]["num_inference_steps"] == 2 and told["inputs"]["guidance_scale"] == 4.0
    assert told["scheduler"]["_class_name"] == "DDIMScheduler"
    assert told["guider"]["_class_name"] == "ClassifierFreeGuidance"
    assert [p.name for p in here.iterdir()] == ["apple.png"]


@pytest.mark.parametrize(
    ("fixture", "kind"), [("xl_checkpoint", "base"), ("flux_checkpoint", "dev"), ("sd3_checkpoint", "3 medium")]
)
def test_a_folder_of_every_family_makes_a_picture_that_carries_its_settings(
    fixture: str, kind: str, request: pytest.FixtureRequest, here: Path
) -> None:
    size = ("--set", "height=32", "--set", "width=32")
    model: Path = request.getfixturevalue(fixture)(kind)
    said = sfumato("run", "a red apple", "--model", model, "-o", "apple.png", "--seed", "7", *FEW, *size)
    assert said.code == 0 and said.out.startswith("apple.png  (32x32, ")
    told = settings(here / "apple.png")
    assert told["model"] == str(model) and told["task"] == "text2image"
    assert told["guider"]["_class_name"] == "ClassifierFreeGuidance"


def test_settings_are_strict_json_whatever_a_scheduler_holds(here: Path) -> None:
    said = sfumato("run", "a red apple", "-o", "apple.png", "--scheduler", "dpmpp_2m", "--json", *FEW)
    with Image.open("apple.png") as image:
        texts = [said.out, image.info["sfumato"]]
    assert all("Infinity" not in text and '"-inf"' in text for text in texts)


def test_a_fresh_seed_is_told_and_makes_the_same_picture_again(here: Path) -> None:
    first = sfumato("run", "a red apple", "-o", "one.png", "--json", *FEW).data
    seed = str(first["inputs"]["seed"])
    assert sfumato("run", "a red apple", "-o", "two.png", "--seed", seed, *FEW).code == 0
    with Image.open("one.png") as one, Image.open("two.png") as two:
        assert one.tobytes() == two.tobytes()
    picture = sf.load("emoji")(prompt="a red apple", num_inference_steps=2, seed=int(seed)).images[0]
    with Image.open("one.png") as one:
        assert one.tobytes() == picture.tobytes()


def test_without_a_name_no_file_is_replaced(here: Path) -> None:
    for name in ("a-red-apple.png", "a-red-apple-2.png", "a-red-apple-3.png"):
        said = sfumato("run", "A red apple!", *FEW)
        assert said.out.startswith(f"{name}  (")
    assert len(list(here.iterdir())) == 3


def test_several_pictures_get_numbers_and_a_folder_is_made(here: Path) -> None:
    said = sfumato("run", "a red apple", "-n", "2", "-o", "new/deep/apple.webp", *FEW, "--json")
    assert [file["path"] for file in said.data["files"]] == ["new/deep/apple.webp", "new/deep/apple-2.webp"]
    assert all((here / file["path"]).stat().st_size == file["bytes"] for file in said.data["files"])


def test_a_named_file_is_replaced(here: Path) -> None:
    (here / "apple.png").write_text("old")
    assert sfumato("run", "a red apple", "-o", "apple.png", *FEW).code == 0
    assert settings(here / "apple.png")["inputs"]["prompt"] == "a red apple"


def test_the_task_is_the_first_that_takes_what_is_given(here: Path) -> None:
    Image.new("RGB", (64, 64), "green").save("in.png")
    Image.new("L", (64, 64), 255).save("mask.png")
    assert sfumato("run", "a red apple", "--image", "in.png", *FEW, "--json").data["task"] == "image2image"
    inpainted = sfumato("run", "an apple", "--image", "in.png", "--mask", "mask.png", *FEW, "--json").data
    assert inpainted["task"] == "inpaint" and inpainted["inputs"]["mask_image"] == "mask.png"


def test_guider_and_scheduler_are_named_with_their_settings(here: Path) -> None:
    said = sfumato(
        "run", "a red apple", "--scheduler", "euler:use_karras_sigmas=true", *FEW, "--json",
        "--guider", "cfg:guidance_scale=3,stop=0.5",
    )  # fmt: skip
    assert said.data["scheduler"]["use_karras_sigmas"] is True
    assert said.data["scheduler"]["beta_end"] == 0.012  # what the model's own scheduler states is kept
    assert said.data["guider"]["stop"] == 0.5 and said.data["inputs"]["guidance_scale"] == 3.0


def test_a_scheduler_may_be_named_as_people_know_it(here: Path) -> None:
    for name in ("dpmpp_2m_karras", "DPM++ 2M Karras", "dpmpp_2m:use_karras_sigmas=true"):
        said = sfumato("run", "a red apple", "--scheduler", name, *FEW, "--json").data["scheduler"]
        assert said["_class_name"] == "DPMSolverMultistepScheduler" and said["use_karras_sigmas"] is True
        assert said["beta_end"] == 0.012


def test_what_a_run_does_not_use_is_a_note(here: Path) -> None:
    said = sfumato("run", "a red apple", "--guider", "none", "--negative", "a pear", *FEW)
    assert said.code == 0
    assert said.err == "note: 'negative_prompt' is not used with guider: nothing in this run reads it.\n"


def test_a_graph_file_runs_by_itself(here: Path) -> None:
    sf.load("emoji").save(here / "saved")
    said = sfumato("run", "a red apple", "--graph", "saved/graph.json", "-o", "x.png", "--seed", "7", *FEW)
    assert said.code == 0, said.err
    assert settings(here / "x.png")["graph"] == "saved/graph.json"


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        (["--set", "steps_=3", *FEW], "steps_  no such input. Did you mean 'steps'?"),
        (["--set", "num_inference_steps=many"], "num_inference_steps  takes int, but 'many' (str) came."),
        (["--set", "height=70", *FEW], "height=70 cannot be made: it must be a multiple of 8. The nearest is 72."),
        (["--set", "height"], "--set 'height': has no value. Write --set NAME=VALUE."),
        (["--set", "seed=1", "--seed", "2"], "--set 'seed=1': seed is given twice. Leave one out."),
        (["--set", "output_type=np"], "sfumato run writes picture files, so it is not to be set."),
        (["--set", "unet=big"], "unet=big: only names of schedulers and guiders can be given here, not a unet."),
        (["--seed", "-1"], "seed is -1; it goes from 0 to"),
        (["--scheduler", "eulr_a"], "No scheduler is called 'eulr_a'. Did you mean 'euler_a'?"),
        (["--scheduler", "euler_a:karras=true"], "EulerAncestralDiscreteScheduler has no 'karras'."),
        (["--scheduler", "euler:sigma"], "'sigma' has no value. Write euler:key=value,key=value."),
        (["--guider", "cfg:scale=3"], "ClassifierFreeGuidance has no 'scale'."),
        (["--task", "image2imag"], "has no task 'image2imag'. Did you mean 'image2image'?"),
        (["--task", "image2image"], "image is missing. Give a picture to start from: --image FILE."),
        (["--image", "no.png"], "no.png: cannot be read (No such file or directory)."),
        (["--model", "emogi"], "'emogi' is neither a folder nor a preset. Did you mean 'emoji'?"),
        (["--model", "sd"], "sd: brings no scheduler, text_encoder, tokenizer, unet, vae. Give --model:"),
        (["--graph", "no.json"], "no.json: there is no such file."),
        (["--device", "warp"], "--device warp: cannot be used (torch knows no such device)."),
        (["--dtype", "int9"], "dtype: came 'int9'"),
        (["-o", "apple.gif"], "apple.gif: ends in '.gif', which is no kind of picture. Use one of .png,"),
        (["-o", "apple"], "apple: has no suffix"),
    ],
)
def test_mistakes_are_told_in_a_line_and_write_nothing(args: list[str], wanted: str, here: Path) -> None:
    said = sfumato("run", "a red apple", *args)
    assert said.code == 1 and said.out == "" and "Traceback" not in said.err
    assert said.err.startswith("error: ") and said.err.count("\n") == 1
    assert wanted in said.err
    assert list(here.iterdir()) == []


def test_all_wrong_values_are_told_at_once(here: Path) -> None:
    said = sfumato("run", "a red apple", "--set", "nope=1", "--set", "height=tall", "--json")
    assert said.code == 1
    assert [p["place"] for p in said.data["error"]["problems"]] == ["nope", "height"]
    assert said.data["error"]["type"] == "InputError" and said.err.startswith("error: (2 problems)\n")


def test_a_missing_prompt_says_how_to_give_it(here: Path) -> None:
    assert sfumato("run").err == "error: prompt is missing. Say what the picture shows: sfumato run 'a red apple'.\n"


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        (["run", "--nonsense"], "error: No such option: --nonsense"),
        (["paint"], "error: No such command 'paint'. Try 'sfumato --help'."),
        (["show"], "error: Missing argument 'X'. Try 'sfumato show --help'."),
        (["run", "x", "--seed", "seven"], "error: Invalid value for '--seed'"),
    ],
)
def test_a_wrong_command_line_exits_2(args: list[str], wanted: str) -> None:
    said = sfumato(*args)
    assert said.code == 2 and said.err.startswith(wanted) and said.err.count("\n") == 1
    assert sfumato(*args, "--json").data["error"]["type"] == "UsageError"


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Traceback" in sfumato("show", "emogi", "--debug").err
    monkeypatch.setenv("SFUMATO_DEBUG", "1")
    assert "Traceback" in sfumato("show", "emogi").err
    monkeypatch.setenv("SFUMATO_DEBUG", "0")
    assert "Traceback" not in sfumato("show", "emogi").err


def test_show_draws_or_tells(here: Path) -> None:
    assert "num_inference_steps" in sfumato("show", "emoji").out
    assert sfumato("show", "emoji", "--mermaid").out.startswith("flowchart")
    assert sfumato("show", "emoji", "--svg", "new/g.svg").out == "new/g.svg\n"
    assert "<svg" in (here / "new" / "g.svg").read_text()
    told = sfumato("show", "emoji", "--task", "inpaint", "--json").data
    assert told["inputs"]["mask_image"]["required"] and told["inputs"]["height"]["default"] == 64
    assert told["slots"] == {"guider": ["denoise.guider"]} and told["components"]["vae"]["bound"]
    assert {"name", "block"} <= told["nodes"][0].keys() and {"from", "to", "how"} == told["edges"][0].keys()
    assert sfumato("show", "emoji", "--json", "--mermaid").code == 1


def test_check_is_quiet_of_what_is_right_and_lists_what_is_wrong(here: Path) -> None:
    assert sfumato("check", "emoji").out == "emoji: ok (text2image, image2image, inpaint)\n"
    wrong = sfumato("check", "sd")
    assert wrong.code == 1 and wrong.err == "error: sd: 5 problems\n"
    assert "vae  no component is bound" in wrong.out
    told = sfumato("check", "sd", "--json")
    assert told.code == 1 and not told.data["ok"] and {p["code"] for p in told.data["problems"]} == {"unbound"}


def test_check_reads_a_graph_file(here: Path) -> None:
    sf.load("emoji").save(here)
    assert sfumato("check", "graph.json").out == "graph.json: ok (text2image)\n"
    file = here / "graph.json"
    file.write_text(file.read_text().replace("DecodeLatents", "DecodeLatens"))
    said = sfumato("check", "graph.json")
    assert said.code == 1 and "DecodeLatens" in said.err and "Traceback" not in said.err


def test_inspect_and_presets_tell_what_there_is() -> None:
    assert "UNet2DConditionModel  float16" in sfumato("inspect", "emoji").out
    assert sfumato("inspect", "emoji", "--json").data["parameters"] > 9e6
    assert [row["name"] for row in sfumato("presets", "--json").data] == sf.presets()
    assert sfumato("presets").out.startswith("emoji")
    assert sfumato("--version").out == f"sfumato {sf.__version__}\n"


def imported(*args: str) -> set[str]:
    """The modules that a process has imported after this command, which must succeed."""
    code = (
        "import sys\n"
        "from sfumato.presets.cli import main\n"
        "sys.argv[0] = 'sfumato'\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "print(*sys.modules, file=sys.stderr)\n"
    )
    done = process(["-c", code, *args])
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


@pytest.mark.parametrize("args", [["--help"], ["run", "--help"], ["presets"], ["presets", "--json"]], ids=" ".join)
def test_help_and_the_list_of_presets_import_no_model(args: list[str]) -> None:
    modules = imported(*args)
    heavy = {"torch", "transformers", "numpy", "PIL", "networkx", "huggingface_hub", "safetensors", "jaxtyping"}
    assert not heavy & modules
    assert not {m for m in modules if m.startswith(("sfumato.components", "sfumato.blocks"))}


def test_a_run_imports_no_more_than_it_needs(here: Path) -> None:
    heavy = {"transformers", "huggingface_hub", "accelerate", "networkx", "diffusers", "rich"}
    assert not heavy & imported("run", "a red apple", "-o", "x.png", *FEW)
    assert (here / "x.png").is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_shows_how_far_it_is_and_notes_stay_whole(here: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    args = ["-m", "sfumato", "run", "a red apple", "-o", "x.png", "--guider", "none", "--negative", "a pear", *FEW]
    with subprocess.Popen(
        [sys.executable, *args], stdout=subprocess.PIPE, stderr=theirs, text=True, env=ENV
    ) as running:
        os.close(theirs)
        told = b""
        with suppress(OSError):  # Linux says so when the other end is closed
            while piece := os.read(ours, 65536):
                told += piece
        out, _ = running.communicate()
    os.close(ours)
    assert running.returncode == 0 and out.startswith("x.png  (")
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", told.decode())
    assert "importing torch" in plain and "note: 'negative_prompt' is not used with guider" in plain


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal, sends SIGINT")
def test_ctrl_c_stops_with_a_line_and_130(here: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    args = [sys.executable, "-m", "sfumato", "run", "a red apple", "--set", "num_inference_steps=900", "-o", "x.png"]

    def heed() -> None:
        """Jobs in the background are started deaf to SIGINT, and these tests may run in one."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=theirs, text=True, env=ENV, preexec_fn=heed) as running:
        os.close(theirs)
        told, sent = b"", False
        with suppress(OSError):  # Linux says so when the other end is closed
            while piece := os.read(ours, 65536):
                told += piece
                if b"denoise" in told and not sent:
                    running.send_signal(signal.SIGINT)
                    sent = True
        out, _ = running.communicate(timeout=120)
    os.close(ours)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", told.decode())
    assert (running.returncode, out) == (130, "") and "error: stopped by Ctrl-C" in plain


def test_the_module_runs_and_tells_mistakes_as_json() -> None:
    done = process(["-m", "sfumato", "show", "emogi", "--json"])
    assert done.returncode == 1 and "Did you mean 'emoji'?" in json.loads(done.stdout)["error"]["message"]
