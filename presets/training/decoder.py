"""Train the decoder of an autoencoder: the latents stay as they are, and pictures are decoded better."""

from collections.abc import Sequence

from ...blocks.train.decode import ReconstructPixels
from ...blocks.train.encode import EncodePosterior, SamplePosterior
from ...components.training.whole import train_whole
from ...graph import ConfigError, Graph, named
from .method import Method
from .objective import LOSSES, Choice, chosen

PARTS = ("decoder", "post_quant_conv")
"""The parts of an autoencoder that follow the latents."""
ENCODER = "vae_encoder"
"""The name of the autoencoder that encodes. It is not trained, so what it encodes can be kept."""


def decoder(pipe: Graph, *, loss: Choice = "mse", parts: Sequence[str] = PARTS) -> Method:
    """Train the decoder of the preset's autoencoder; every denoiser of its latents can use it then.

    loss: see `LOSSES`. parts: what is trained.

    Raises:
        ConfigError: a preset without an autoencoder.
    """
    if "vae" not in pipe.bindings:
        raise ConfigError(f"The preset has no autoencoder named 'vae'. It has {', '.join(pipe.bindings)}.")
    trained = train_whole(pipe, ("vae",), parts={"vae": parts})
    graph = Graph(
        posterior=named(EncodePosterior(), vae=ENCODER),
        sample=SamplePosterior(),
        reconstruct=ReconstructPixels(),
        loss=chosen("loss", loss, LOSSES),
        outputs=("loss", "losses", "random"),
    )
    return Method(graph.bind(vae=pipe.bindings["vae"], **{ENCODER: pipe.bindings["vae"]}), trained)
