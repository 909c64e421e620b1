"""Tables of names, in both directions."""

import torch

from adet_iuq.checkpoint.renaming import NameTable, Rule

TABLE = NameTable(
    [
        Rule("net.{i}.qkv.{p}", ("block{i}.q.{p}", "block{i}.k.{p}")),
        Rule("net.{i}.{rest}", ("block{i}.{rest}",)),
        Rule("first", ("start",)),
    ],
    ignored=(r"head\.", r".*buffer$"),
    ours_only=("made_anew",),
)


def test_there_and_back() -> None:
    theirs = {
        "block3.q.weight": torch.zeros(2, 4),
        "block3.k.weight": torch.ones(2, 4),
        "block11.norm.bias": torch.rand(3),
        "start": torch.rand(1),
    }
    ours = TABLE.to_ours(theirs)
    assert set(ours.tensors) == {"net.3.qkv.weight", "net.11.norm.bias", "first"} and not ours.unplaced
    assert ours.tensors["net.3.qkv.weight"].tolist() == [[0.0] * 4] * 2 + [[1.0] * 4] * 2
    back = TABLE.from_ours(ours.tensors | {"made_anew": torch.zeros(1)})
    assert set(back.tensors) == set(theirs) and not back.unplaced
    assert all(torch.equal(back.tensors[name], tensor) for name, tensor in theirs.items())


def test_what_has_no_rule_or_lacks_a_part_is_named() -> None:
    tensor = torch.zeros(2, 2)
    table = NameTable([Rule("qkv", ("q", "k")), Rule("a.{i}", ("b.{i}",))])
    result = table.to_ours({"q": tensor, "b.x": tensor, "b.1": tensor})
    assert list(result.tensors) == ["a.1"] and result.unplaced == ["q", "b.x"]
    assert table.from_ours({"a.1": tensor, "a.y": tensor}).unplaced == ["a.y"]
    assert TABLE.ours_only(["first", "made_anew.x", "unknown"]) == ["made_anew.x"]


def test_ignored_names_win_over_rules() -> None:
    result = TABLE.to_ours({"head.weight": torch.zeros(1), "block1.buffer": torch.zeros(1)})
    assert not result.tensors and not result.unplaced


def test_dots_are_dots() -> None:
    assert NameTable([Rule("a.b", ("a.b",))]).to_ours({"axb": torch.zeros(1)}).unplaced == ["axb"]
