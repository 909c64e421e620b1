"""INPUT.DEEP_IMAGES, the rule by which images with one channel of more than 8 bits are read (data/images/deep.py)."""

from adet_iuq.errors import UserError

RULES = ("dtype", "image", "refuse")


def check_rule(rule: str) -> str:
    """Returns INPUT.DEEP_IMAGES if it is valid.

    Raises:
        UserError: it is not one of `RULES`.
    """
    if rule not in RULES:
        raise UserError(f"INPUT.DEEP_IMAGES is {rule!r}; it can be {', '.join(map(repr, RULES))}.")
    return rule
