"""Image encoders and processors equal those of transformers, and Redux's encoder that of diffusers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from sfumato.components.image_processor import CLIPImageProcessor, ImageProcessor, SiglipImageProcessor
from sfumato.components.loading.component import load_problems, read_component
from sfumato.components.models.redux import ReduxImageEncoder
from sfumato.components.models.vision import CLIPVisionModelWithProjection, ImageEncoding, SiglipVisionModel
from sfumato.components.spec import ComponentSpec, class_of
from sfumato.graph.errors import ConfigError, LoadError
from sfumato.registry import hint_of

TINY: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 30,
    "patch_size": 8,
}
TOLERANCE = 1e-5

PAIRS: list[Any] = [
    (CLIPVisionModelWithProjection, transformers.CLIPVisionModelWithProjection, {"projection_dim": 16}),
    (CLIPVisionModelWithProjection, transformers.CLIPVisionModelWithProjection, {"hidden_act": "gelu"}),
    (SiglipVisionModel, transformers.SiglipVisionModel, {}),
    (SiglipVisionModel, transformers.SiglipVisionModel, {"vision_use_head": False, "layer_norm_eps": 1e-3}),
]


def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 30, 30, generator=torch.Generator().manual_seed(0))


def reference(kind: Any, changes: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    return kind(kind.config_class(**{**TINY, **changes})).eval()


def apart(mine: ImageEncoding, theirs: Any) -> float:
    """The largest difference of anything that the reference gives; ours gives as much."""
    pairs = [(mine.last_hidden_state, theirs.last_hidden_state)]
    pairs += zip(mine.hidden_states or (), theirs.hidden_states, strict=True)
    for name in ("pooler_output", "image_embeds"):
        if (there := getattr(theirs, name, None)) is not None:
            pairs.append((getattr(mine, name), there))
    return max(float((a - b).abs().max()) for a, b in pairs)


@pytest.mark.parametrize(("kind", "published", "changes"), PAIRS)
def test_an_encoder_saved_by_transformers_gives_the_same_numbers_here(
    tmp_path: Path, kind: Any, published: Any, changes: dict[str, Any]
) -> None:
    theirs = reference(published, changes)
    theirs.save_pretrained(tmp_path)
    mine = kind.from_pretrained(tmp_path)
    assert not any(p.is_meta for p in mine.parameters())
    got = mine(pixels(), output_hidden_states=True)
    assert apart(got, theirs(pixels(), output_hidden_states=True)) <= TOLERANCE
    assert mine(pixels()).hidden_states is None


@pytest.mark.parametrize(("kind", "published", "changes"), PAIRS)
def test_an_encoder_saved_here_gives_the_same_numbers_in_transformers(
    tmp_path: Path, kind: Any, published: Any, changes: dict[str, Any]
) -> None:
    mine = kind(**{**TINY, **changes}).eval()
    mine.save_pretrained(tmp_path)
    assert kind.from_pretrained(tmp_path).config == mine.config
    theirs, info = published.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    got = mine(pixels(), output_hidden_states=True)
    assert apart(got, theirs.eval()(pixels(), output_hidden_states=True)) <= TOLERANCE


@pytest.mark.parametrize(("kind", "published", "changes"), [PAIRS[0], PAIRS[2]])
def test_files_with_both_encoders_and_of_older_versions_are_read(
    tmp_path: Path, kind: Any, published: Any, changes: dict[str, Any]
) -> None:
    theirs = reference(published, changes)
    theirs.save_pretrained(tmp_path / "plain")
    tensors = load_file(tmp_path / "plain" / "model.safetensors")
    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    prefixed = {k if k.startswith("vis") else f"vision_model.{k}": v for k, v in tensors.items()}
    old = {**prefixed, "vision_model.embeddings.position_ids": torch.arange(9)[None]}
    text = {"text_model.embeddings.token_embedding.weight": torch.zeros(3, 2), "logit_scale": torch.tensor(1.0)}
    whole = {"model_type": kind.whole_type, "vision_config": config, "text_config": {}}
    for name, (held, keys) in {"old": (old, config), "whole": (prefixed | text, whole)}.items():
        (tmp_path / name).mkdir()
        save_file(held, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text(json.dumps(keys))
        got = kind.from_pretrained(tmp_path / name)(pixels())
        assert float((got.last_hidden_state - theirs(pixels()).last_hidden_state).abs().max()) <= TOLERANCE


@pytest.mark.parametrize(
    ("kind", "published", "keys", "parameters"),
    [
        (  # google/siglip-so400m-patch14-384, which Flux Redux looks with
            SiglipVisionModel,
            transformers.SiglipVisionModel,
            {
                "hidden_size": 1152,
                "intermediate_size": 4304,
                "num_hidden_layers": 27,
                "num_attention_heads": 16,
                "image_size": 384,
                "patch_size": 14,
            },
            428_225_600,
        ),
        (  # laion's ViT-H, of IP-Adapter
            CLIPVisionModelWithProjection,
            transformers.CLIPVisionModelWithProjection,
            {
                "hidden_size": 1280,
                "intermediate_size": 5120,
                "num_hidden_layers": 32,
                "num_attention_heads": 16,
                "patch_size": 14,
                "projection_dim": 1024,
                "hidden_act": "gelu",
            },
            632_076_800,
        ),
    ],
)
def test_full_size_encoders_have_the_published_names_and_shapes(
    kind: Any, published: Any, keys: dict[str, Any], parameters: int
) -> None:
    with torch.device("meta"):
        mine, theirs = kind(**keys), published(published.config_class(**keys))
    renamed = {kind.published_name(k): tuple(v.shape) for k, v in theirs.state_dict().items()}
    assert {k: tuple(v.shape) for k, v in mine.state_dict().items()} == renamed
    assert sum(p.numel() for p in mine.parameters()) == parameters


def picture(columns: int, rows: int, mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(columns).integers(0, 256, (rows, columns, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((columns, rows), Image.Resampling.BICUBIC).convert(mode)


CONFIGS: list[dict[str, Any]] = [
    {},
    {"size": {"shortest_edge": 40}, "crop_size": {"height": 60, "width": 32}},
    {"size": {"height": 50, "width": 30}, "resample": 2, "do_center_crop": False},
    {"size": {"height": 20, "width": 31}, "do_normalize": False, "crop_size": {"height": 25, "width": 24}},
    {"do_resize": False, "do_rescale": False, "crop_size": {"height": 33, "width": 47}, "do_center_crop": True},
]
PROCESSORS: list[Any] = [
    (CLIPImageProcessor, CLIPImageProcessorPil),
    (SiglipImageProcessor, SiglipImageProcessorPil),
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize(("kind", "published"), PROCESSORS)
def test_a_processor_gives_the_published_pixels_and_files(
    tmp_path: Path, kind: type[ImageProcessor], published: Any, config: dict[str, Any]
) -> None:
    theirs = published(**config)
    theirs.save_pretrained(tmp_path / "theirs")
    mine = kind.from_pretrained(tmp_path / "theirs")
    mine.save_pretrained(tmp_path / "ours")
    again = published.from_pretrained(tmp_path / "ours")
    for size in ((64, 48), (41, 90), (35, 35)):
        for mode in ("RGB", "L", "RGBA", "P"):
            shown = picture(*size, mode)
            expected = theirs(images=shown, do_convert_rgb=True, return_tensors="pt")["pixel_values"]
            torch.testing.assert_close(mine([shown]), expected, rtol=1e-5, atol=1e-5)
            back = again(images=shown, return_tensors="pt")["pixel_values"]
            torch.testing.assert_close(mine([shown]), back, rtol=1e-5, atol=1e-5)


def test_tensors_and_images_are_prepared_alike() -> None:
    shown = picture(50, 40)
    tensor = torch.from_numpy(np.array(shown)).movedim(-1, 0) / 255
    mine = SiglipImageProcessor()
    assert torch.equal(mine([tensor, shown])[0], mine([tensor, shown])[1])


def test_a_processor_of_before_2022_has_its_sizes_as_numbers() -> None:
    old = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 32, "crop_size": 24, "do_convert_rgb": None}
    assert CLIPImageProcessor.from_config(old).config.size == 32
    assert CLIPImageProcessor.from_config(old)([picture(50, 40)]).shape == (1, 3, 24, 24)


def test_redux_gives_the_reference_s_numbers(reference: Any, tmp_path: Path) -> None:
    kind = reference.pipelines.flux.modeling_flux.ReduxImageEncoder
    theirs = kind(redux_dim=12, txt_in_features=8).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    mine = ReduxImageEncoder.from_pretrained(tmp_path / "theirs")
    tokens = torch.randn(2, 5, 12)
    torch.testing.assert_close(mine(tokens), theirs(tokens).image_embeds, rtol=0, atol=TOLERANCE)
    mine.save_pretrained(tmp_path / "ours")
    again = kind.from_pretrained(tmp_path / "ours")
    torch.testing.assert_close(mine(tokens), again(tokens).image_embeds, rtol=0, atol=TOLERANCE)


def test_class_hints_of_index_files_are_read_and_written() -> None:
    classes = {
        ("transformers", "CLIPVisionModelWithProjection"): CLIPVisionModelWithProjection,
        ("transformers", "SiglipVisionModel"): SiglipVisionModel,
        ("transformers", "SiglipImageProcessor"): SiglipImageProcessor,
        ("transformers", "CLIPImageProcessor"): CLIPImageProcessor,
        ("flux", "ReduxImageEncoder"): ReduxImageEncoder,
    }
    for hint, kind in classes.items():
        assert class_of(hint) is kind
        assert hint_of(kind) == hint
    assert class_of(("transformers", "CLIPFeatureExtractor")) is CLIPImageProcessor


def test_the_parts_of_a_redux_folder_load_by_their_hints(tmp_path: Path) -> None:
    made = {
        ("transformers", "SiglipVisionModel"): SiglipVisionModel(**TINY),
        ("transformers", "SiglipImageProcessor"): SiglipImageProcessor(size={"height": 30, "width": 30}),
        ("flux", "ReduxImageEncoder"): ReduxImageEncoder(redux_dim=32, txt_in_features=8),
    }
    parts: dict[str, Any] = {}
    for hint, part in made.items():
        part.save_pretrained(tmp_path / hint[1])
        spec = ComponentSpec(pretrained_model_name_or_path=str(tmp_path), subfolder=hint[1], type_hint=hint)
        assert load_problems(spec) == []
        parts[hint[1]] = read_component(spec, torch.float32, "cpu")
    seen = parts["SiglipVisionModel"](parts["SiglipImageProcessor"]([picture(50, 40)]))
    assert parts["ReduxImageEncoder"](seen.last_hidden_state).shape == (1, 9, 8)


def test_wrong_configs_and_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"num_attention_heads  needs to divide hidden_size \(32\), got 5"):
        SiglipVisionModel(**{**TINY, "num_attention_heads": 5})
    with pytest.raises(ConfigError, match=r"patch_size  needs to be from 1 to image_size 30, got 31"):
        SiglipVisionModel(**{**TINY, "patch_size": 31})
    with pytest.raises(
        ConfigError, match="SiglipVisionModel needs a config of model_type 'siglip_vision_model', got 'clip'"
    ):
        SiglipVisionModel.from_config({"model_type": "clip"})
    with pytest.raises(ValueError, match=r"Needs pixel_values of shape \(batch, 3, 30, 30\), got \(1, 3, 20, 30"):
        SiglipVisionModel(**TINY)(torch.zeros(1, 3, 20, 30))
    with pytest.raises(ConfigError, match=r'SiglipImageProcessor needs size like {"height": 224, "width": 224} or'):
        SiglipImageProcessor(size={"longest_edge": 3})
    with pytest.raises(ConfigError, match=r"do_resise  no such key\. Did you mean 'do_resize'"):
        CLIPImageProcessor(do_resise=True)
    with pytest.raises(ValueError, match=r"images of one size, got \[\(30, 20\), \(40, 40\)\]"):
        SiglipImageProcessor(do_resize=False)([picture(20, 30), picture(40, 40)])
    with pytest.raises(ValueError, match="Needs at least one image"):
        SiglipImageProcessor()([])
    with pytest.raises(LoadError):
        CLIPImageProcessor.from_pretrained(tmp_path)
