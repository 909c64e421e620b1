"""The message for someone who sets a config key that does not exist."""

import difflib
from collections.abc import Sequence, Set


def unknown_key_text(key: str, names: Sequence[str], source: str) -> str:
    """The message for a wrong key. It names the keys that may have been meant, but none of another network.

    Args:
        key: the key as the user wrote it.
        names: all keys that exist.
        source: where the key was set.
    """
    sections = sorted({name.rsplit(".", depth)[0] for name in names for depth in range(1, name.count(".") + 1)})
    if key in sections:
        return f"{key} in {source} is a section, not a key; name one of its keys, such as " + ", ".join(
            [name for name in names if name.startswith(key + ".")][:3]
        )
    leaf = key.rsplit(".", 1)[-1]
    parts = {section.split(".")[1].upper() for section in sections if section.startswith("MODEL.")}
    possible = [name for name in names if _may_mean(key, name, parts)]
    near = difflib.get_close_matches(key, possible, n=3, cutoff=0.75)
    near += [name for name in possible if name.rsplit(".", 1)[-1] == leaf and name not in near][:6]
    hint = (
        f" Did you mean {' or '.join(near)}?"
        if near
        else " All keys: adet_iuq/config and detectron2's defaults.py; those of a project need --project."
    )
    return f"Config key {key} (in {source}) does not exist.{hint}"


def _may_mean(key: str, name: str, parts: Set[str]) -> bool:
    """Whether the existing key `name` belongs to the part of the model that `key` names, or one of both names no part.

    `parts` are the existing parts, in capitals.

    MODEL.PAFPN is not a misspelt MODEL.FPN, because a setting of one network means nothing in another. Two parts are
    the same if they have the same letters, in any case and order. If there is no such part, they are also the same if a
    single letter differs, is missing or is extra; MODEL.RPN, which exists, is thus not a misspelt MODEL.FPN either.
    """
    asked, offered = key.removeprefix("MODEL.").split("."), name.split(".")
    leaf = offered[-1]
    if asked == [leaf] or offered[0] != "MODEL" or len(offered) < 3:
        return True
    part, other = asked[0].upper(), offered[1].upper()
    return sorted(part) == sorted(other) or (part not in parts and _is_one_edit(part, other))


def _is_one_edit(one: str, other: str) -> bool:
    """Whether a single letter differs, is missing or is extra."""
    shorter, longer = sorted((one, other), key=len)
    same = next((place for place, letter in enumerate(shorter) if letter != longer[place]), len(shorter))
    rest = same + (len(one) == len(other))
    return len(longer) - len(shorter) <= 1 and longer[same + 1 :] == shorter[rest:]
