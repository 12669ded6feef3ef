"""Folders of pictures with captions, and what is wrong with them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image

from sfumato.components.types import Images, Mask
from sfumato.graph import Block, Graph
from sfumato.graph.errors import ConfigError, LoadError, PictureError, UnfitValue
from sfumato.presets.training.data import Buckets, Captions, Source, TrainingData, load_data


def save(file: Path, caption: str | None = None, size: tuple[int, int] = (8, 8), colour: str = "red") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(file)
    if caption is not None:
        file.with_suffix(".txt").write_text(caption)
    return file


def prompts(data: TrainingData) -> dict[str, str | None]:
    return {s.name: s.prompt for b in data.batches().epoch(0) for s in b.samples}


def test_a_caption_is_in_the_text_file_beside_its_picture(tmp_path: Path):
    save(tmp_path / "fox.png", "a fox\n")
    save(tmp_path / "more" / "owl.jpg", "an owl,\nat night")
    data = load_data(tmp_path, size=8)
    assert prompts(data) == {"fox.png": "a fox", "more/owl.jpg": "an owl, at night"}
    batch = next(b for b in data.batches().epoch(0) if b.names == ("fox.png",))
    assert torch.equal(batch.load()["pixels"], torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(1, 3, 8, 8))
    assert batch.load()["prompt"] == ("a fox",) and set(batch.load()) == {
        "pixels", "prompt", "original_size", "crops_coords_top_left", "target_size", "is_prior",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_captions_are_in_a_file_of_metadata(tmp_path: Path, kind: str):
    save(tmp_path / "fox.png")
    save(tmp_path / "sub" / "owl.png")
    if kind == "jsonl":
        rows = [{"file_name": "fox.png", "text": "a fox"}, {"file_name": "sub/owl.png", "text": "an owl, grey"}]
        text = "\n".join(map(json.dumps, rows))
    else:
        text = 'file_name,text\nfox.png,a fox\nsub/owl.png,"an owl, grey"\n'
    (tmp_path / f"metadata.{kind}").write_text(text)
    wanted = {"fox.png": "a fox", "sub/owl.png": "an owl, grey"}
    assert prompts(load_data(tmp_path)) == wanted == prompts(load_data(tmp_path / f"metadata.{kind}"))


def test_a_folder_may_be_relative_and_metadata_in_a_folder_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save(tmp_path / "data" / "sub" / "fox.png")
    save(tmp_path / "data" / "masks" / "sub" / "fox.png", colour="white")
    (tmp_path / "data" / "sub" / "metadata.csv").write_text("file_name,text\nfox.png,a fox\n")
    monkeypatch.chdir(tmp_path)
    data = load_data(Source("x/../data", masks="data/masks"), size=8)
    assert prompts(data) == {"sub/fox.png": "a fox"} and data.batches().epoch(0)[0].load()["mask"].min() == 1


def test_pictures_without_captions_have_that_of_the_source(tmp_path: Path):
    save(tmp_path / "a.png")
    save(tmp_path / "b.png", "a fox in snow")
    assert prompts(load_data(Source(tmp_path, prompt="a fox"))) == {"a.png": "a fox", "b.png": "a fox in snow"}


def test_pictures_without_any_caption_make_no_prompt(tmp_path: Path):
    save(tmp_path / "a.png")
    assert "prompt" not in load_data(tmp_path).inputs


def test_orientation_tags_are_read_as_in_inference(tmp_path: Path):
    picture = Image.new("RGB", (8, 4), "red")
    picture.paste("blue", (0, 0, 4, 4))
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees
    picture.save(tmp_path / "a.png", exif=exif)
    data = load_data(tmp_path, size=(8, 4))
    (batch,) = data.batches().epoch(0)
    assert batch.load()["original_size"] == ((8, 4),)
    top, bottom = batch.load()["pixels"][0, :, 0, 0], batch.load()["pixels"][0, :, -1, 0]
    assert (top.tolist(), bottom.tolist()) == ([0, 0, 1], [1, 0, 0])


# ------------------------------------------------------------------------------------------------ sizes
def test_sdxl_sizes_are_those_of_each_row(tmp_path: Path):
    save(tmp_path / "a.png", size=(40, 20))
    save(tmp_path / "b.png", size=(16, 16))
    (batch,) = load_data(tmp_path, size=(8, 8)).batches(2, shuffle=False).epoch(0)
    assert batch.load()["original_size"] == ((20, 40), (16, 16))
    assert batch.load()["crops_coords_top_left"] == ((0, 4), (0, 0))
    assert batch.load()["target_size"] == ((8, 8), (8, 8))


def test_a_random_crop_is_where_its_numbers_say(tmp_path: Path):
    picture = Image.new("RGB", (32, 8))
    picture.putdata([(x, y, 0) for y in range(8) for x in range(32)])
    picture.save(tmp_path / "a.png")
    batches = load_data(tmp_path, size=8, crop="random", flip=0.5).batches()
    seen = set[tuple[int, bool]]()
    for epoch in range(12):
        (batch,) = batches.epoch(epoch)
        ((top, left),) = batch.load()["crops_coords_top_left"]
        row = (batch.load()["pixels"][0, 0, 0] * 255).round().int().tolist()
        mirrored = batch.samples[0].placement.mirrored  # the left edge of a crop is that of the mirrored picture
        assert top == 0 and row == [31 - left - i if mirrored else left + i for i in range(8)]
        seen.add((left, mirrored))
    assert len(seen) > 6 and {mirrored for _, mirrored in seen} == {False, True}


def test_buckets_keep_the_area_and_take_the_closest_shape():
    buckets = Buckets(512, step=64)
    assert buckets.size_for((100, 100)) == (512, 512)
    assert buckets.size_for((500, 1000)) == (320, 704)
    assert buckets.size_for((1000, 500)) == (704, 320)
    assert all(h * w <= 512 * 512 and h % 64 == w % 64 == 0 and min(h, w) >= 256 for h, w in buckets.sizes)
    assert Buckets(512, step=64, enlarge=False).size_for((300, 200)) == (256, 192)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (lambda: Buckets(32), "size: needs 64 pixels or more, which is the step, got 32."),
        (
            lambda: Buckets(512, least=520, most=570),
            "Buckets need a side between 520 and 570 that is a multiple of 64. Change least, most or step.",
        ),
        (lambda: Captions(dropout=2), "dropout: needs a share from 0 to 1, got 2."),
        (lambda: Captions(shuffle=True, separator=" "), "separator: needs a mark between tags such as ',', got ' '."),
        (lambda: Source("x", repeats=0), "repeats: needs a number above 0, got 0."),
        (lambda: Source("x", repeats=2, weight=1), "A source needs either repeats or weight, got both. Leave one out."),
        (lambda: load_data("x", crop="left"), "crop: needs 'center' or 'random', got 'left'."),  # pyright: ignore[reportArgumentType]
        (lambda: load_data("x", captions="a fox"), "captions: needs sf.data.Captions(…), got 'a fox'."),  # pyright: ignore[reportArgumentType]
        (lambda: load_data("x", flip=3), "flip: needs a share from 0 to 1, got 3."),
        (lambda: load_data("x", size=0), "size: needs pixels, got 0x0."),
    ],
)
def test_a_setting_out_of_its_range_is_refused(wrong: Callable[[], object], text: str):
    with pytest.raises(ConfigError) as caught:
        wrong()
    assert str(caught.value) == text


# ------------------------------------------------------------------------------------------------ captions
def captions_over_epochs(captions: Captions, caption: str, epochs: int = 40) -> list[str]:
    batches = load_data([{"image": Image.new("L", (1, 1)), "text": caption}], size=1, captions=captions).batches()
    return [batches.epoch(e)[0].load()["prompt"][0] for e in range(epochs)]


def test_captions_are_dropped_in_their_share():
    seen = captions_over_epochs(Captions(dropout=0.25), "a fox")
    assert set(seen) == {"", "a fox"} and 3 <= seen.count("") <= 20


def test_tags_are_shuffled_behind_those_that_are_kept():
    seen = captions_over_epochs(Captions(shuffle=True, keep=1), "fox, red, small, old")
    assert len(set(seen)) == 6 and all(one.startswith("fox, ") for one in seen)
    assert {tuple(sorted(one.split(", "))) for one in seen} == {("fox", "old", "red", "small")}


def test_tags_are_left_out_in_their_share():
    seen = captions_over_epochs(Captions(tag_dropout=0.5, keep=1), "fox, red, old")
    assert set(seen) == {"fox", "fox, red", "fox, old", "fox, red, old"}


def test_a_trigger_is_before_each_caption():
    assert set(captions_over_epochs(Captions(trigger="sks"), "a fox, red", 2)) == {"sks, a fox, red"}
    assert all(one.startswith("sks, ") for one in captions_over_epochs(Captions(trigger="sks", shuffle=True), "a, b"))


def test_one_line_of_several_is_chosen():
    assert set(captions_over_epochs(Captions(lines="choose"), "a fox\n\nthe fox\n")) == {"a fox", "the fox"}


# ------------------------------------------------------------------------------------------------ masks and control
def test_masks_are_beside_pictures_in_a_folder_or_in_alpha(tmp_path: Path):
    save(tmp_path / "data" / "a.png")
    half = Image.new("L", (8, 8), 0)
    half.paste(255, (0, 0, 4, 8))
    half.save(tmp_path / "data" / "a-masklabel.png")
    (tmp_path / "masks").mkdir()
    half.save(tmp_path / "masks" / "a.png")
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    clear.paste((255, 0, 0, 255), (0, 0, 4, 8))
    beside = load_data(tmp_path / "data", size=8)
    folder = load_data(Source(tmp_path / "data", masks=tmp_path / "masks"), size=8)
    alpha = load_data([{"image": clear}], size=8, alpha_mask=True)
    wanted = (torch.arange(8) < 4).float().expand(1, 1, 8, 8)
    for data in (beside, folder, alpha):
        (batch,) = data.batches().epoch(0)
        assert torch.equal(batch.load()["mask"], wanted)
    assert alpha.batches().epoch(0)[0].load()["pixels"][0, :, 0].T.tolist() == [[1, 0, 0]] * 4 + [[1, 1, 1]] * 4


def test_a_picture_without_a_mask_counts_whole_where_others_have_one():
    rows = [{"image": Image.new("RGB", (4, 4)), "mask": m} for m in (Image.new("L", (4, 4), 0), None)]
    (batch,) = load_data(rows, size=4).batches(2, shuffle=False).epoch(0)
    assert batch.load()["mask"].flatten(1).mean(1).tolist() == [0, 1]


def test_masks_and_control_pictures_are_placed_as_their_picture():
    ramp = Image.new("RGB", (32, 8))
    ramp.putdata([(x * 8, x * 8, x * 8) for _ in range(8) for x in range(32)])
    rows = [{"image": ramp, "mask": ramp.convert("L"), "control_image": ramp}]
    batches = load_data(rows, size=8, crop="random", flip=0.5).batches()
    for epoch in range(6):
        inputs = batches.epoch(epoch)[0].load()
        assert torch.equal(inputs["pixels"], inputs["control_image"])
        assert torch.equal(inputs["pixels"][:, :1], inputs["mask"])


# ------------------------------------------------------------------------------------------------ several sources
def test_repeats_weights_and_priors(tmp_path: Path):
    for i in range(2):
        save(tmp_path / "dog" / f"{i}.png")
    for i in range(6):
        save(tmp_path / "class" / f"{i}.png")
    dog, other = Source(tmp_path / "dog", prompt="sks"), Source(tmp_path / "class", prompt="a dog", is_prior=True)

    def counts(*sources: Source) -> list[int]:
        samples = [s for b in load_data(sources, size=8).batches().epoch(0) for s in b.samples]
        assert len({s.index for s in samples}) == len(samples)
        return [sum(s.is_prior is prior for s in samples) for prior in (False, True)]

    assert counts(dog, other) == [2, 6]
    assert counts(Source(dog.data, prompt="sks", repeats=3), other) == [6, 6]
    assert counts(dog, Source(other.data, prompt="a dog", is_prior=True, repeats=0.5)) == [2, 3]
    assert counts(dog, Source(other.data, "a dog", weight=1, is_prior=True)) == [6, 6]
    assert counts(Source(dog.data, "sks", weight=2), other) == [12, 6]
    with pytest.raises(ConfigError, match=r"Sources need either weights or repeats, and .*dog has repeats"):
        counts(Source(dog.data, "sks", repeats=2), Source(other.data, "a dog", weight=1))
    (batch,) = load_data([dog, other], size=8).batches(8, shuffle=False).epoch(0)
    assert batch.load()["is_prior"].tolist() == [False] * 2 + [True] * 6
    assert batch.load()["prompt"] == ("sks",) * 2 + ("a dog",) * 6


# ------------------------------------------------------------------------------------------------ for a recipe
class Reads(NamedTuple):
    loss: torch.Tensor


class Read(Block):
    """Read a caption, and a mask."""

    def __call__(self, prompt: tuple[str, ...], mask: Mask, control_image: Images | None = None) -> Reads:
        return Reads(mask.mean())


def test_batches_for_a_recipe_have_its_inputs_alone():
    rows = [{"image": Image.new("RGB", (4, 4)), "mask": Image.new("L", (4, 4)), "text": "a fox"}]
    recipe = Graph(read=Read())
    (batch,) = load_data(rows, size=4).batches(recipe=recipe).epoch(0)
    assert set(batch.load()) == {"prompt", "mask"}
    with pytest.raises(ConfigError) as caught:
        load_data([{"image": Image.new("RGB", (4, 4))}], size=4).batches(recipe=recipe)
    assert str(caught.value) == (
        "The data lacks inputs of the recipe.\n"
        "  mask  No picture has a mask. Set masks= of the Source, or alpha_mask=True.\n"
        "  prompt  No picture has a caption. Put a .txt file beside each, or set prompt= of the Source."
    )


# ------------------------------------------------------------------------------------------------ what is wrong
def refused(data: Any, **settings: Any) -> str:
    with pytest.raises(LoadError) as caught:
        load_data(data, **settings)
    return str(caught.value)


def test_an_empty_folder_is_refused(tmp_path: Path):
    (tmp_path / "notes.md").write_text("x")
    assert refused(tmp_path) == (
        f"{tmp_path}: has no pictures. Needs a folder with files that end in .png, .jpg, .jpeg, .webp, .tif, .tiff, "
        ".bmp, .gif, .avif, .heic, .heif; or files of .parquet, .tar, .csv or .jsonl; or a repo of datasets on the Hub."
    )


def test_a_broken_picture_is_skipped_and_listed_or_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    save(tmp_path / "fox.png", "a fox")
    whole = save(tmp_path / "owl.png", "an owl", (64, 64)).read_bytes()
    (tmp_path / "owl.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "lost.txt").write_text("nobody")
    data = load_data(tmp_path, size=8)
    assert prompts(data) == {"fox.png": "a fox"} and [one.name for one in data.skipped] == ["lost.txt", "owl.png"]
    assert caplog.messages == [
        "2 files cannot be used and will be skipped.\n"
        "  lost.txt  is a caption without a picture. Put the picture beside it under the same name.\n"
        f"  owl.png  {data.skipped[1].reason}"
    ]
    assert refused(tmp_path, strict=True).startswith("2 files cannot be used.\n  lost.txt  is a caption without")


def test_only_broken_pictures_are_refused(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    assert refused(tmp_path).startswith(f"{tmp_path}: has no picture that can be read. Needs a folder with")


def test_a_picture_without_a_caption_is_refused_where_others_have_one(tmp_path: Path):
    save(tmp_path / "a.png", "a fox")
    save(tmp_path / "b.png")
    assert refused(tmp_path) == (
        "1 picture without a caption: b.png. Put a file with the same name and the end .txt beside each picture, or "
        "set prompt= of the Source."
    )


def test_a_mask_of_another_size_is_refused(tmp_path: Path):
    save(tmp_path / "a.png", size=(8, 6))
    save(tmp_path / "a-masklabel.png", size=(8, 4))
    assert refused(tmp_path) == (
        f"{tmp_path}: masks and control pictures need the size of their picture. Save these anew: a.png has 6x8 "
        "(rows x columns), its mask 4x8."
    )


def test_a_picture_without_its_control_picture_is_refused(tmp_path: Path):
    save(tmp_path / "data" / "a.png")
    save(tmp_path / "data" / "b.png")
    save(tmp_path / "control" / "a.png")
    assert refused(Source(tmp_path / "data", controls=tmp_path / "control")) == (
        f"{tmp_path}/control: needs a control picture of the same name for each picture, and has none for b.png."
    )
    picture = Image.new("L", (4, 4))
    assert refused([{"image": picture, "control_image": picture}, {"image": picture, "control_image": None}]) == (
        "1 picture without a control picture: the list, row 1. Others have one. Add those that are missing."
    )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('{"name": "a.png"}', "needs a column with names of pictures, such as 'file_name', and has 'name'. Set its"),
        ("[1]", 'row 1 needs to be an object: {"file_name": "a.png", "text": "a fox"}.'),
        ("{", "row 1 is not JSON at line 1, column 2: "),
        ('{"file_name": "../../secret.png"}', "'../../secret.png' leads out of the folder"),
        ('{"file_name": "a.png", "text": 3}', "needs a text or a list of texts as the caption, got int."),
    ],
)  # fmt: skip
def test_wrong_metadata_is_refused(tmp_path: Path, text: str, error: str):
    save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(text)
    message = refused(tmp_path)
    assert message.startswith(str(tmp_path / "metadata.jsonl")) and error in message


def test_a_row_whose_picture_is_missing_is_skipped(tmp_path: Path):
    save(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,a fox\nb.png,an owl\n")
    (skipped,) = load_data(tmp_path, size=8).skipped
    assert (skipped.name, skipped.reason) == (
        "b.png", "is in row 2 of metadata.csv, but there is no such file. Put it there, or remove the row."
    )  # fmt: skip


def test_a_picture_that_is_gone_later_is_an_error(tmp_path: Path):
    file = save(tmp_path / "a.png")
    epoch = load_data(tmp_path, size=8).batches().epoch(0)
    file.unlink()
    with pytest.raises(PictureError, match=r"a\.png: cannot be read"):
        epoch[0].load()


def test_a_background_needs_to_be_a_colour():
    with pytest.raises(UnfitValue, match="background needs a colour"):
        load_data("x", background="nothing")
