"""The colours of latents: for each latent space, a matrix from its channels to red, green and blue.

They are least squares fits of small pictures, in [-1, 1], to the latents of their autoencoders. Those of published
families are as in ComfyUI (comfy/latent_formats.py, 2025); the method is that of "Decoding latents to RGB without
upscaling" (discuss.huggingface.co/t/23204, 2022). `tests/blocks/fit_colours.py` makes that of the embedded model.
"""

from ...graph.space import LatentSpace

Row = tuple[float, float, float]

Colours = tuple[tuple[Row, ...], Row]
"""A row for each channel, and what is added."""

_SD: Colours = (
    ((0.3512, 0.2297, 0.3227), (0.3250, 0.4974, 0.2350), (-0.2829, 0.1762, 0.2721), (-0.2120, -0.2616, -0.7177)),
    (0.0, 0.0, 0.0),
)
_SDXL: Colours = (
    ((0.3651, 0.4232, 0.4341), (-0.2533, -0.0042, 0.1068), (0.1076, 0.1111, -0.0362), (-0.3165, -0.2492, -0.2188)),
    (0.1084, -0.0175, -0.0011),
)
_SD3: Colours = (
    (
        (-0.0922, -0.0175, 0.0749), (0.0311, 0.0633, 0.0954), (0.1994, 0.0927, 0.0458), (0.0856, 0.0339, 0.0902),
        (0.0587, 0.0272, -0.0496), (-0.0006, 0.1104, 0.0309), (0.0978, 0.0306, 0.0427), (-0.0042, 0.1038, 0.1358),
        (-0.0194, 0.0020, 0.0669), (-0.0488, 0.0130, -0.0268), (0.0922, 0.0988, 0.0951), (-0.0278, 0.0524, -0.0542),
        (0.0332, 0.0456, 0.0895), (-0.0069, -0.0030, -0.0810), (-0.0596, -0.0465, -0.0293),
        (-0.1448, -0.1463, -0.1189),
    ),
    (0.2394, 0.2135, 0.1925),
)  # fmt: skip
_FLUX: Colours = (
    (
        (-0.0346, 0.0244, 0.0681), (0.0034, 0.0210, 0.0687), (0.0275, -0.0668, -0.0433), (-0.0174, 0.0160, 0.0617),
        (0.0859, 0.0721, 0.0329), (0.0004, 0.0383, 0.0115), (0.0405, 0.0861, 0.0915), (-0.0236, -0.0185, -0.0259),
        (-0.0245, 0.0250, 0.1180), (0.1008, 0.0755, -0.0421), (-0.0515, 0.0201, 0.0011), (0.0428, -0.0012, -0.0036),
        (0.0817, 0.0765, 0.0749), (-0.1264, -0.0522, -0.1103), (-0.0280, -0.0881, -0.0499),
        (-0.1262, -0.0982, -0.0778),
    ),
    (-0.0329, -0.0718, -0.0851),
)  # fmt: skip
_EMOJI: Colours = (
    (
        (0.1099, -0.0268, -0.5252), (0.1232, 0.0953, 0.3075), (0.2112, 0.0089, -0.4324), (-0.0313, 0.1392, 0.2419),
        (0.0274, -0.0644, -0.2630), (-0.0955, -0.1925, -0.2077), (0.0107, 0.0508, -0.1262), (-0.0347, 0.0188, 0.0682),
    ),
    (0.7746, 0.6381, 0.5370),
)  # fmt: skip

_COLOURS: dict[LatentSpace, Colours] = {
    LatentSpace(None, 4, 0.18215, 0.0): _SD,  # Stable Diffusion 1 and 2, PixArt Alpha
    LatentSpace(None, 4, 0.13025, 0.0): _SDXL,  # SDXL, PixArt Sigma
    LatentSpace(None, 16, 1.5305, 0.0609): _SD3,
    LatentSpace(None, 16, 0.3611, 0.1159): _FLUX,
    LatentSpace(None, 8, 0.18215, 0.0): _EMOJI,
}


def colours_of(space: LatentSpace) -> Colours | None:
    """The matrix of a latent space, channels by (red, green, blue), and what is added; None for an unknown space.

    They are for scaled latents, and give colours from -1 to 1.
    """
    if space.scaling is None:
        return None
    return next((colours for known, colours in _COLOURS.items() if known.fits(space)), None)
