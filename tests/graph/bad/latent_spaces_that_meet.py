from sfumato.graph import Graph, Loop

from ..fakes import FLUX, SDXL, Decode, Decoder, Encode, Encoder, Step


def wrong() -> object:
    graph = Graph(
        encode=Encode(),
        denoise=Loop(over="items", each="item", carry=("latents",), body=Graph(step=Step())),
        decode=Decode(),
    )
    return graph.bind(encoder=Encoder(SDXL), decoder=Decoder(FLUX))


EXPECTED = """WireError: decode (decoder)  works in the latent space flux (16 channels, scaling 0.3611, shift 0.1159), but encode (encoder) works in sdxl (4 channels, scaling 0.13025), and their latents meet. Bind components of one family, or decode and encode again between them."""
