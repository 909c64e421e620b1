"""Tells from the end of an image file whether it is whole, because a broken download leaves a sound header."""

import os

from detectron2.utils.file_io import PathManager

from adet_iuq.data.images.opening import open_image

_LAST_BYTES = (b"\xff\xd9", b"IEND\xaeB\x60\x82")  # the last bytes of a JPEG and of a PNG


def check_whole(path: str | os.PathLike[str]) -> None:
    """Refuses an image file whose pixels are cut off.

    A JPEG or PNG with the last bytes of its format counts as whole (`image_facts` decodes PNGs in any case); any other
    file is decoded.

    Raises:
        UserError: the file is missing, damaged or too large.
    """
    path = os.fspath(path)
    if not _ends_as_it_should(path):
        with open_image(path) as image:
            image.load()


def _ends_as_it_should(path: str) -> bool:
    length = max(map(len, _LAST_BYTES))
    with PathManager.open(path, "rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - length))
        return bool(file.read().endswith(_LAST_BYTES))
