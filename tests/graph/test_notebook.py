"""Outputs in a notebook."""

import base64
import io
import re

import numpy as np
from PIL import Image

from sfumato import Outputs


class Seeded(Image.Image):
    """A picture that knows its seed."""

    def __init__(self, color: str, seed: int | None, size: tuple[int, int] = (2, 2)) -> None:
        super().__init__()
        self.__dict__.update(Image.new("RGB", size, color).__dict__)
        self.seed = seed


def shown(html: str) -> list[Image.Image]:
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"base64,([^\"]+)", html)]


def test_a_notebook_shows_pictures_as_a_grid_with_their_seeds() -> None:
    outputs = Outputs({"images": [Seeded("red", 7), Seeded("blue", 8), Seeded("lime", None)]})
    html = outputs._repr_html_()
    assert [picture.getpixel((0, 0)) for picture in shown(html)] == [(255, 0, 0), (0, 0, 255), (0, 255, 0)]
    assert re.findall(r"seed (\d+)", html) == ["7", "8"] and html.count("<figure") == html.count("</figure>") == 3


def test_a_notebook_shows_other_values_as_short_escaped_text() -> None:
    html = Outputs(
        {"name": "<script>\x1b[31m", "latents": np.zeros((1, 4, 2, 2), np.float32), "none": []}
    )._repr_html_()
    assert html == (
        "<div><code>name</code> &#x27;&lt;script&gt;\\x1b[31m&#x27;</div>"
        "<div><code>latents</code> a ndarray of shape (1, 4, 2, 2) and float32</div><div><code>none</code> []</div>"
    )


def test_a_notebook_keeps_many_or_large_pictures_small() -> None:
    html = Outputs({"images": [Seeded("red", 1, (2000, 1000))], "one": Seeded("red", None)})._repr_html_()
    assert [picture.size for picture in shown(html)] == [(512, 256), (2, 2)] and 'title="2000 x 1000"' in html
    many = Outputs({"images": [Seeded("red", None)] * 70})._repr_html_()
    assert len(shown(many)) == 64 and "<p>and 6 more</p>" in many
