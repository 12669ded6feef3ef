"""Train image prompts (Ye et al. 2023, IP-Adapter): a projection of an image's features, and matrices for attention."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch

from ...blocks.train.image_prompt import DropImages, EncodeImages
from ...components.adapters.layouts import Layout
from ...components.models.ip_adapter import ImagePromptAdapter
from ...components.models.unet_2d_condition import UNet2DConditionModel
from ...components.storage.weights import write_safetensors
from ...components.training.trained import NO_HEADER
from ...graph import ConfigError, Graph, Lazy
from ...graph.errors import SaveError
from ...graph.saving import saving_file
from ..load import load_component
from .control import unet_of
from .method import Method
from .new_nets import TrainedNet, first_weights
from .objective import Objective
from .recipe import recipe


class TrainedImagePrompt(TrainedNet):
    """An image prompt in training. It is saved as the published ones are: in one file, without a config."""

    suffix = ".safetensors"

    def save(self, path: str | Path, *, layout: Layout | None = None, header: Mapping[str, str] = NO_HEADER) -> Path:
        """Write the file: `sf.load(…, ip_adapter=file, image_encoder=…)` loads it.

        The image encoder is not in it. Where its folder `image_encoder` is beside the file, `sf.load` finds it.

        Raises:
            SaveError: a path without `.safetensors`.
        """
        if Path(path).suffix != self.suffix:
            raise SaveError(f"{path}: needs a name that ends with {self.suffix}. Other programs go by it.")
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.net.state_dict().items()}
        with saving_file(path) as draft:
            write_safetensors(tensors, draft, dict(header))
        return Path(path)

    def load(self, path: str | Path) -> Any:
        """The adapter of a saved file; see `Trained.load`."""
        return load_component(path)


def ip_adapter(
    pipe: Graph,
    objective: Objective = Objective(),
    *,
    image_encoder: Any,
    net: ImagePromptAdapter | str | Path | None = None,
    feature_extractor: Any = None,
    drop_images: float = 0.05,
    projector: Literal["linear", "full", "perceiver"] = "linear",
    config: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Method:
    """Train an image prompt for a U-Net: the pictures of the data are prompts for themselves.

    Some pictures and some captions should be left out, so that guidance works: `drop_images`, and the dropout of
    captions of the data.

    Args:
        pipe: a preset of Stable Diffusion 1, 2 or XL.
        objective: choices of the recipe.
        image_encoder: a `CLIPVisionModelWithProjection`, or its folder or repo. It is not trained.
        net: an adapter to train on, or its file; None for a new one.
        feature_extractor: the processor of the image encoder; None for CLIP's.
        drop_images: the share of pictures that are left out.
        projector: of a new adapter: "linear" is IP-Adapter, "perceiver" is IP-Adapter Plus.
        config: further keys of a new adapter, such as {"tokens": 16}; see `ImagePromptAdapterConfig`.
        seed: of the first weights of a new adapter's projector.

    Raises:
        ConfigError: a preset of another family, or a config that does not fit.
    """
    if isinstance(image_encoder, str | Path):
        image_encoder = load_component(image_encoder)
    made: Any = load_component(net) if isinstance(net, str | Path) else net
    if made is None:
        with first_weights(seed):
            made = new_image_prompt(unet_of(pipe), image_encoder, projector=projector, **(config or {}))
    elif isinstance(net, str | Path):
        made = copy.deepcopy(made)  # the one that was loaded belongs to all
    if not isinstance(made, ImagePromptAdapter) or made.reads_faces:
        what = "one of faces" if isinstance(made, ImagePromptAdapter) else f"a {type(made).__name__}"
        raise ConfigError(f"net: needs an ImagePromptAdapter that reads pictures, got {what}. Leave net= out.")
    more = {"image_encoder": image_encoder}
    more |= {} if feature_extractor is None else {"feature_extractor": feature_extractor}
    trained = TrainedImagePrompt("ip_adapter", made, more)
    graph = recipe(trained.attached(pipe)).insert("drop", DropImages(drop_images=drop_images), after="timesteps")
    graph = graph.insert("images", EncodeImages(reads=made.reads, negative=made.negative), after="posterior")
    return Method(objective.changed(graph.bind(more)), trained)


def new_image_prompt(unet: UNet2DConditionModel, image_encoder: Any, **config: Any) -> ImagePromptAdapter:
    """An adapter to train: its matrices are those of the U-Net's attention to the prompt (Ye et al. 2023, section 3.2).

    Args:
        unet: the U-Net.
        image_encoder: its widths are those of the features.
        config: keys in place of those that follow from the models.
    """
    loaded = image_encoder.load() if isinstance(image_encoder, Lazy) else image_encoder
    layers: list[Any] = [unet.get_submodule(path) for path in unet.numbered_attention()[1::2]]
    reads = "projection_dim" if config.get("projector", "linear") == "linear" else "hidden_size"
    sizes = {
        "image_width": getattr(loaded.config, reads),
        "token_width": layers[0].to_k.in_features,
        "channels": tuple(layer.to_q.out_features for layer in layers),
    }
    net = ImagePromptAdapter(**{**sizes, **config})
    with torch.no_grad():
        for number, layer in enumerate(layers):
            own = cast("Any", net.ip_adapter[str(2 * number + 1)])
            own.to_k_ip.weight.copy_(layer.to_k.weight)
            own.to_v_ip.weight.copy_(layer.to_v.weight)
    return net.to(unet.device)
