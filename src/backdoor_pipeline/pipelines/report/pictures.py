"""Images in a page that opens offline: their bytes are part of it."""

from __future__ import annotations

import base64

from markupsafe import Markup

SIDE = 96  # pixels in the page; smaller images are enlarged, without smoothing
KINDS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg"}
"""How the files of the kinds that are read begin."""


def picture(image: bytes) -> Markup:
    """An image (PNG or JPEG) as an element of a page."""
    kind = next((kind for start, kind in KINDS.items() if image.startswith(start)), "png")
    encoded = base64.b64encode(image).decode("ascii")
    return Markup(
        '<img class="picture" height="{}" alt="image" src="data:image/{};base64,{}">'
    ).format(SIDE, kind, encoded)
