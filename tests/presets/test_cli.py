"""The command line, as users see it."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
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
}  # two threads beside other tests wait for each other and take 10 times as long
WITH_PROGRESS = {**ENV, "SFUMATO_PROGRESS": "1"}
FEW = ("--set", "num_inference_steps=2")


class Result(NamedTuple):
    """The exit code of a command, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:  # JSON values
        return json.loads(self.out)


def sfumato(*args: str | Path) -> Result:
    """Run a command in this process."""
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Result(result.exit_code, result.stdout, result.stderr)


def process(args: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, env=ENV, timeout=300, check=False)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def record(path: Path) -> Any:  # JSON values
    with Image.open(path) as image:
        return json.loads(image.info["sfumato"])


def components(path: Path) -> Any:  # JSON values
    return record(path)["graph"]["graph"]["components"]


def test_a_prompt_becomes_a_file_that_has_a_record_of_its_run(folder: Path) -> None:
    result = sfumato("run", "a red apple", "-o", "apple.png", "--seed", "7", *FEW)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("apple.png  (64x64, ") and result.out.endswith(" s, seed 7)\n")
    data = record(folder / "apple.png")
    assert data["graph"]["graph"]["preset"] == ["sd", "text2image"]
    assert data["inputs"] == {"prompt": "a red apple", "seed": 7, "num_inference_steps": 2}
    assert data["defaults"]["guidance_scale"] == 4.0 and data["picture"]["seed"] == 7
    assert components(folder / "apple.png")["scheduler"]["type_hint"] == ["diffusers", "DDIMScheduler"]
    assert [p.name for p in folder.iterdir()] == ["apple.png"]


@pytest.mark.parametrize(
    ("fixture", "kind"), [("xl_checkpoint", "base"), ("flux_checkpoint", "dev"), ("sd3_checkpoint", "3 medium")]
)
def test_a_folder_of_every_family_makes_a_picture_with_a_record(
    fixture: str, kind: str, request: pytest.FixtureRequest, folder: Path
) -> None:
    size = ("--set", "height=32", "--set", "width=32")
    model: Path = request.getfixturevalue(fixture)(kind)
    result = sfumato("run", "a red apple", "--model", model, "-o", "apple.png", "--seed", "7", *FEW, *size)
    assert result.code == 0 and result.out.startswith("apple.png  (32x32, ")
    assert components(folder / "apple.png")["vae"]["pretrained_model_name_or_path"] == f"./{model.name}"
    assert sfumato("replay", "apple.png", "--folder", model.parent).out == "identical\n"


def test_settings_are_strict_json_for_every_scheduler(folder: Path) -> None:
    result = sfumato("run", "a red apple", "-o", "apple.png", "--scheduler", "dpmpp_2m", "--json", *FEW)
    with Image.open("apple.png") as image:
        texts = [result.out, image.info["sfumato"]]
    assert all("Infinity" not in text and '"-inf"' in text for text in texts)


def test_a_random_seed_is_printed_and_makes_the_same_picture_again(folder: Path) -> None:
    first = sfumato("run", "a red apple", "-o", "one.png", "--json", *FEW).data
    seed = str(first["inputs"]["seed"])
    assert sfumato("run", "a red apple", "-o", "two.png", "--seed", seed, *FEW).code == 0
    with Image.open("one.png") as one, Image.open("two.png") as two:
        assert one.tobytes() == two.tobytes()
    picture = sf.load("emoji")(prompt="a red apple", num_inference_steps=2, seed=int(seed)).images[0]
    with Image.open("one.png") as one:
        assert one.tobytes() == picture.tobytes()


def test_without_a_name_no_file_is_replaced(folder: Path) -> None:
    for name in ("a-red-apple.png", "a-red-apple-2.png", "a-red-apple-3.png"):
        result = sfumato("run", "A red apple!", *FEW)
        assert result.out.startswith(f"{name}  (")
    assert len(list(folder.iterdir())) == 3


def test_several_pictures_get_numbers_and_a_folder_is_made(folder: Path) -> None:
    result = sfumato("run", "a red apple", "-n", "2", "-o", "new/deep/apple.webp", *FEW, "--json")
    assert [file["path"] for file in result.data["files"]] == ["new/deep/apple.webp", "new/deep/apple-2.webp"]
    assert all((folder / file["path"]).stat().st_size == file["bytes"] for file in result.data["files"])


def test_a_named_file_is_replaced(folder: Path) -> None:
    (folder / "apple.png").write_text("old")
    assert sfumato("run", "a red apple", "-o", "apple.png", *FEW).code == 0
    assert record(folder / "apple.png")["inputs"]["prompt"] == "a red apple"


def test_the_task_is_the_first_that_has_the_inputs_of_the_options(folder: Path) -> None:
    Image.new("RGB", (64, 64), "green").save("in.png")
    Image.new("L", (64, 64), 255).save("mask.png")
    assert sfumato("run", "a red apple", "--image", "in.png", *FEW, "--json").data["task"] == "image2image"
    inpainted = sfumato("run", "an apple", "--image", "in.png", "--mask", "mask.png", *FEW, "--json").data
    assert inpainted["task"] == "inpaint" and inpainted["inputs"]["mask_image"] == "mask.png"


def test_guider_and_scheduler_are_named_with_their_settings(folder: Path) -> None:
    result = sfumato(
        "run", "a red apple", "--scheduler", "euler:use_karras_sigmas=true", *FEW, "--json",
        "--guider", "cfg:guidance_scale=3,stop=0.5",
    )  # fmt: skip
    assert result.data["scheduler"]["use_karras_sigmas"] is True
    assert result.data["scheduler"]["beta_end"] == 0.012  # kept from the model's own scheduler
    assert result.data["guider"]["stop"] == 0.5 and result.data["inputs"]["guidance_scale"] == 3.0


def test_a_scheduler_can_have_its_customary_name(folder: Path) -> None:
    for name in ("dpmpp_2m_karras", "DPM++ 2M Karras", "dpmpp_2m:use_karras_sigmas=true"):
        result = sfumato("run", "a red apple", "--scheduler", name, *FEW, "--json").data["scheduler"]
        assert result["_class_name"] == "DPMSolverMultistepScheduler" and result["use_karras_sigmas"] is True
        assert result["beta_end"] == 0.012


def test_an_option_without_effect_is_a_note(folder: Path) -> None:
    result = sfumato("run", "a red apple", "--guider", "none", "--negative", "a pear", *FEW)
    assert result.code == 0
    assert result.err == "note: 'negative_prompt' is not used with guider: nothing in this run reads it.\n"


def test_a_graph_file_runs_by_itself(folder: Path) -> None:
    sf.load("emoji").save(folder / "saved")
    result = sfumato("run", "a red apple", "--graph", "saved/graph.json", "-o", "x.png", "--seed", "7", *FEW)
    assert result.code == 0, result.err
    assert sfumato("replay", "x.png").out == "identical\n"


def test_a_replay_says_what_is_missing_and_what_differs(folder: Path) -> None:
    assert sfumato("run", "a red apple", "-o", "one.png", "--private", "prompt", *FEW).code == 0
    refused = sfumato("replay", "one.png")
    assert refused.code == 1
    assert refused.err == "error: prompt  was left out of the record. Pass it: sf.replay(file, prompt=…).\n"
    same = sfumato("replay", "one.png", "--set", "prompt=a red apple", "-o", "two.png")
    assert (same.code, same.out) == (0, "identical\ntwo.png\n")
    other = sfumato("replay", "two.png", "--set", "prompt=a fox", "--json")
    assert other.code == 1 and other.data["verdict"] == "different" and other.data["mean"] > 1
    assert other.data["differences"] == ["input prompt: another value is passed than the recorded one"]


def test_a_picture_can_have_no_record(folder: Path) -> None:
    assert sfumato("run", "a red apple", "-o", "one.png", "--no-record", *FEW).code == 0
    with Image.open("one.png") as image:
        assert image.info == {}
    assert sfumato("replay", "one.png").err.startswith("error: one.png: has no record of a run.")


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        (["--set", "steps_=3", *FEW], "steps_  no such input. Did you mean 'steps'?"),
        (["--set", "num_inference_steps=many"], "num_inference_steps  takes int, got 'many' (str)."),
        (["--set", "height=70", *FEW], "height=70 cannot be made: it must be a multiple of 8. The nearest is 72."),
        (["--set", "height"], "--set 'height': has no value. Write --set NAME=VALUE."),
        (["--set", "seed=1", "--seed", "2"], "--set 'seed=1': seed is set twice. Remove one."),
        (["--set", "output_type=np"], "output_type cannot be set. sfumato run always writes picture files."),
        (["--set", "unet=big"], "--set unet=big: only a scheduler or a guider can be set by its name, not a unet."),
        (["--seed", "-1"], "--seed -1: must be from 0 to"),
        (["--scheduler", "eulr_a"], "No scheduler is called 'eulr_a'. Did you mean 'euler_a'?"),
        (["--scheduler", "euler_a:karras=true"], "EulerAncestralDiscreteScheduler has no 'karras'."),
        (["--scheduler", "euler:sigma"], "'sigma' has no value. Write euler:key=value,key=value."),
        (["--guider", "cfg:scale=3"], "ClassifierFreeGuidance has no 'scale'."),
        (["--attention", "slicd"], "attention: needs a backend, got 'slicd'. Did you mean 'sliced'?"),
        (["--task", "image2imag"], "has no task 'image2imag'. Did you mean 'image2image'?"),
        (["--task", "image2image"], "image is missing. Pass a picture to start from: --image FILE."),
        (["--image", "no.png"], "no.png: cannot be read (No such file or directory)."),
        (["--model", "emogi"], "'emogi' is neither a folder nor a preset. Did you mean 'emoji'?"),
        (["--model", "sd"], "sd: has no scheduler, text_encoder, tokenizer, unet, vae. Pass --model:"),
        (["--graph", "no.json"], "no.json: there is no such file."),
        (["--device", "warp"], "--device warp: cannot be used (torch has no such device)."),
        (["--dtype", "int9"], "Got 'int9'"),
        (["-o", "apple.gif"], "apple.gif: the suffix '.gif' is no picture format. Use one of .png,"),
        (["-o", "apple"], "apple: has no suffix. Use one of .png,"),
    ],
)
def test_a_mistake_is_reported_in_one_line_and_writes_no_file(args: list[str], wanted: str, folder: Path) -> None:
    result = sfumato("run", "a red apple", *args)
    assert result.code == 1 and result.out == "" and "Traceback" not in result.err
    assert result.err.startswith("error: ") and result.err.count("\n") == 1
    assert wanted in result.err
    assert list(folder.iterdir()) == []


def test_all_wrong_values_are_reported_at_once(folder: Path) -> None:
    result = sfumato("run", "a red apple", "--set", "nope=1", "--set", "height=tall", "--json")
    assert result.code == 1
    assert [p["place"] for p in result.data["error"]["problems"]] == ["nope", "height"]
    assert result.data["error"]["type"] == "InputError" and result.err.startswith("error: (2 problems)\n")


def test_a_missing_prompt_is_reported_with_an_example(folder: Path) -> None:
    assert sfumato("run").err == "error: prompt is missing. Write what the picture shows: sfumato run 'a red apple'.\n"


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        (["run", "--nonsense"], "error: No such option: --nonsense"),
        (["paint"], "error: No such command 'paint'. Did you mean 'plan', 'train'? Try 'sfumato --help'."),
        (["show"], "error: Missing argument 'MODEL'. Try 'sfumato show --help'."),
        (["run", "x", "--seed", "seven"], "error: Invalid value for '--seed'"),
    ],
)
def test_a_wrong_command_line_exits_2(args: list[str], wanted: str) -> None:
    result = sfumato(*args)
    assert result.code == 2 and result.err.startswith(wanted) and result.err.count("\n") == 1
    assert sfumato(*args, "--json").data["error"]["type"] == "UsageError"


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Traceback" in sfumato("show", "emogi", "--debug").err
    monkeypatch.setenv("SFUMATO_DEBUG", "1")
    assert "Traceback" in sfumato("show", "emogi").err
    monkeypatch.setenv("SFUMATO_DEBUG", "0")
    assert "Traceback" not in sfumato("show", "emogi").err


def test_show_prints_a_graph_as_text_drawing_or_json(folder: Path) -> None:
    assert "num_inference_steps" in sfumato("show", "emoji").out
    assert sfumato("show", "emoji", "--mermaid").out.startswith("flowchart")
    assert sfumato("show", "emoji", "--svg", "new/g.svg").out == "new/g.svg\n"
    assert "<svg" in (folder / "new" / "g.svg").read_text()
    data = sfumato("show", "emoji", "--task", "inpaint", "--json").data
    assert data["inputs"]["mask_image"]["required"] and data["inputs"]["height"]["default"] == 64
    assert data["slots"] == {"guider": ["denoise.guider"]} and data["components"]["vae"]["bound"]
    assert {"name", "block"} <= data["nodes"][0].keys() and {"from", "to", "how"} == data["edges"][0].keys()
    assert sfumato("show", "emoji", "--json", "--mermaid").code == 1


def test_check_lists_problems(folder: Path) -> None:
    assert sfumato("check", "emoji").out == "emoji: ok (text2image, image2image, inpaint)\n"
    wrong = sfumato("check", "sd")
    assert wrong.code == 1 and wrong.err == "error: sd: 5 problems\n"
    assert "vae  no component is bound" in wrong.out
    data = sfumato("check", "sd", "--json")
    assert data.code == 1 and not data.data["ok"] and {p["code"] for p in data.data["problems"]} == {"unbound"}


def test_check_reads_a_graph_file(folder: Path) -> None:
    sf.load("emoji").save(folder)
    assert sfumato("check", "graph.json").out == "graph.json: ok (text2image)\n"
    file = folder / "graph.json"
    file.write_text(file.read_text().replace("DecodeLatents", "DecodeLatens"))
    result = sfumato("check", "graph.json")
    assert result.code == 1 and "DecodeLatens" in result.err and "Traceback" not in result.err


def test_inspect_and_presets_list_components_and_presets() -> None:
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


def test_a_run_imports_no_more_than_it_needs(folder: Path) -> None:
    heavy = {"transformers", "huggingface_hub", "accelerate", "networkx", "diffusers", "rich"}
    assert not heavy & imported("run", "a red apple", "-o", "x.png", *FEW)
    assert (folder / "x.png").is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_shows_progress_and_whole_notes(folder: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    args = ["-m", "sfumato", "run", "a red apple", "-o", "x.png", "--guider", "none", "--negative", "a pear", *FEW]
    with subprocess.Popen(
        [sys.executable, *args], stdout=subprocess.PIPE, stderr=theirs, text=True, env=WITH_PROGRESS
    ) as running:
        os.close(theirs)
        data = b""
        with suppress(OSError):  # Linux says so when the other end is closed
            while piece := os.read(ours, 65536):
                data += piece
        out, _ = running.communicate()
    os.close(ours)
    assert running.returncode == 0 and out.startswith("x.png  (")
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", data.decode())
    assert "importing torch" in plain and "note: 'negative_prompt' is not used with guider" in plain


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal, sends SIGINT")
def test_ctrl_c_stops_with_a_line_and_130(folder: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    args = [sys.executable, "-m", "sfumato", "run", "a red apple", "--set", "num_inference_steps=900", "-o", "x.png"]

    def accept_interrupts() -> None:
        """A background job starts with SIGINT ignored, and these tests may run in one."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(
        args, stdout=subprocess.PIPE, stderr=theirs, text=True, env=WITH_PROGRESS, preexec_fn=accept_interrupts
    ) as running:
        os.close(theirs)
        data, sent = b"", False
        with suppress(OSError):  # Linux says so when the other end is closed
            while piece := os.read(ours, 65536):
                data += piece
                if b"denoise" in data and not sent:
                    running.send_signal(signal.SIGINT)
                    sent = True
        out, _ = running.communicate(timeout=120)
    os.close(ours)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", data.decode())
    assert (running.returncode, out) == (130, "") and "error: stopped by Ctrl-C" in plain


def test_the_module_runs_and_reports_mistakes_as_json() -> None:
    done = process(["-m", "sfumato", "show", "emogi", "--json"])
    assert done.returncode == 1 and "Did you mean 'emoji'?" in json.loads(done.stdout)["error"]["message"]


def test_a_checkpoint_that_only_inpaints_needs_no_task(checkpoint: Callable[[str], Path], folder: Path) -> None:
    model = str(checkpoint("sd-inpainting"))
    checked = sfumato("check", model)
    assert checked.code == 0 and "inpaint" in checked.out and "text2image" not in checked.out
    Image.new("RGB", (64, 64)).save(folder / "in.png")
    Image.new("L", (64, 64), 255).save(folder / "mask.png")
    given = ("--set", "image=in.png", "--set", "mask_image=mask.png", "--set", "height=64", "--set", "width=64")
    drawn = sfumato("run", "a fish", "--model", model, *FEW, *given, "--output", "out.png")
    assert drawn.code == 0, drawn.err
