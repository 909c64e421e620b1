"""What to tell someone who sets a config key that does not exist."""

import difflib
from collections.abc import Sequence


def unknown_key_text(key: str, names: Sequence[str], source: str) -> str:
    """The message for a wrong key: with the keys that may have been meant, never those of another network.

    Args:
        key: as the user wrote it.
        names: all keys that exist.
        source: where it stands.
    """
    sections = sorted({name.rsplit(".", depth)[0] for name in names for depth in range(1, name.count(".") + 1)})
    if key in sections:
        return f"{key} in {source} is a section, not a key; name one of its keys, such as " + ", ".join(
            [name for name in names if name.startswith(key + ".")][:3]
        )
    leaf = key.rsplit(".", 1)[-1]
    possible = [name for name in names if _may_mean(key, name)]
    near = difflib.get_close_matches(key, possible, n=3, cutoff=0.75)
    near += [name for name in possible if name.rsplit(".", 1)[-1] == leaf and name not in near][:6]
    hint = (
        f" Did you mean {' or '.join(near)}?"
        if near
        else " All keys: adet_iuq/config and detectron2's defaults.py; those of a project need --project."
    )
    return f"Config key {key} (in {source}) does not exist.{hint}"


def _may_mean(key: str, name: str) -> bool:
    """Whether the existing key `name` belongs to the part of the model that `key` names, or one of both names no part.

    MODEL.BiFPN is no misspelt MODEL.FPN: a setting of one network says nothing of another. A part is the same if it has
    the same letters, in capitals or not, in whatever order.
    """
    asked, offered = key.removeprefix("MODEL.").split("."), name.split(".")
    leaf = offered[-1]
    if asked == [leaf] or offered[0] != "MODEL" or len(offered) < 3:
        return True
    return sorted(asked[0].upper()) == sorted(offered[1].upper())
