from typing import Annotated, NamedTuple

from sfumato.graph import Block, Graph, Port

from ..fakes import FLUX, SDXL, Y

Flux = Annotated[int, Port("latents", space=FLUX)]

Sdxl = Annotated[int, Port("latents", space=SDXL)]


class GivesSdxl(NamedTuple):
    latents: Sdxl


class Start(Block):
    def __call__(self) -> GivesSdxl:
        return GivesSdxl(1)


class DecodeFlux(Block):
    def __call__(self, latents: Flux) -> Y:
        return Y(latents)


def wrong() -> object:
    return Graph(start=Start(), decode=DecodeFlux())


EXPECTED = """WireError: decode.latents  takes Latents[flux], but start gives Latents[sdxl]. Insert a decode and an encode between them, or use components of one latent space."""
