"""Models without text that draw pixels, such as DDPM (Ho et al. 2020): a U-Net, a scheduler, and no autoencoder."""

from ..blocks.decode.images import FinishImages, UsePixels
from ..blocks.denoise.unet_2d import PredictNoise
from ..blocks.guiders.none import NoGuidance
from ..blocks.latents.parts import BeginPart, EndPart, KeepSeed
from ..blocks.latents.start import CountRows, DrawNoise, MakeSchedule, ScaleNoise, SeedRandom
from ..blocks.text.none import UseNoPrompt
from ..blocks.text.rows import ExpandRows
from ..graph import Graph, named
from .denoising import denoising_loop


def unconditional(size: int = 64, channels: int = 3) -> Graph:
    """Make pictures of the kind that the model was trained on. size: pixels a side. channels: of the U-Net's input.

    A folder of `DDPMPipeline` or `DDIMPipeline` has its components: `sf.load(folder, graph=unconditional(32))`.
    """
    return Graph(
        positive=named(UseNoPrompt(), conditioning="positive"),
        rows=CountRows(),
        expand_positive=named(ExpandRows(), conditioning="positive"),
        random=SeedRandom(),
        keep_seed=KeepSeed(),
        schedule=MakeSchedule(),
        noise=DrawNoise(channels=channels, factor=1, height=size, width=size),
        start=ScaleNoise(),
        begin=BeginPart(),
        denoise=denoising_loop(PredictNoise(), NoGuidance()),
        end=EndPart(),
        decode=UsePixels(),
        finish=FinishImages(),
        outputs=("images",),
        slots={"guider": ["denoise.guider"]},
    )
