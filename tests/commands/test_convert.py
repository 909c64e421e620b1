"""The converter's command line, and a Mask2Former of Hugging Face that must say the same here."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.modeling import build_model

from adet_iuq.checkpoint import Checkpointer
from adet_iuq.checkpoint.convert import read_weights
from adet_iuq.commands import convert
from adet_iuq.config import load_config
from helpers.golden import REPOSITORY

transformers = pytest.importorskip("transformers", reason="a test extra of pyproject.toml")

CONFIG = str(REPOSITORY / "configs/Mask2Former/SwinT_50ep.yaml")
OPTS = [
    "MODEL.SWIN.EMBED_DIM", "24", "MODEL.SWIN.DEPTHS", "[2, 2, 2, 2]", "MODEL.SWIN.NUM_HEADS", "[1, 2, 4, 8]",
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "5", "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", "2",
    "MODEL.MASK_FORMER.DEC_LAYERS", "4", "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", "7",
    "MODEL.MASK_FORMER.HIDDEN_DIM", "64", "MODEL.MASK_FORMER.DIM_FEEDFORWARD", "128",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM", "64", "MODEL.SEM_SEG_HEAD.MASK_DIM", "64", "MODEL.WEIGHTS", "",
]  # fmt: skip


def hugging_face() -> Any:
    """The model of OPTS in transformers, its weights random in every tensor (norms and offsets too)."""
    levels = ["stage1", "stage2", "stage3", "stage4"]
    swin = transformers.SwinConfig(
        embed_dim=24, depths=[2, 2, 2, 2], num_heads=[1, 2, 4, 8], window_size=7, out_features=levels
    )
    config = transformers.Mask2FormerConfig(
        backbone_config=swin,
        num_labels=5,
        encoder_layers=2,
        decoder_layers=4,
        num_queries=7,
        hidden_dim=64,
        feature_size=64,
        mask_feature_size=64,
        dim_feedforward=128,
    )
    torch.manual_seed(0)
    model = transformers.Mask2FormerForUniversalSegmentation(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def ours() -> Any:
    torch.manual_seed(2)
    return build_model(load_config(CONFIG, ["MODEL.DEVICE", "cpu", *OPTS]).cfg).eval()


def run(*arguments: str, opts: Sequence[str] = ()) -> int:
    return int(convert.main([*arguments, "--config-file", CONFIG, *OPTS, *opts]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hugging_face")
    hugging_face().save_pretrained(path)
    return path


def test_a_mask2former_of_hugging_face_says_the_same(folder: Path, tmp_path: Path) -> None:
    assert run(str(folder), str(tmp_path / "ours.pth"), "--from", "hf") == 0
    model = ours()
    Checkpointer(model).load(str(tmp_path / "ours.pth"), strict=True)
    x = torch.randn(2, 3, 128, 160, generator=torch.Generator().manual_seed(3))  # no map is a multiple of the window
    with torch.no_grad():
        theirs = hugging_face()(pixel_values=x)
        predictions, mask_features = model.sem_seg_head(model.backbone(x))
        masks = torch.einsum("bqd,bdhw->bqhw", predictions[-1].embeddings, mask_features)
    scale = theirs.masks_queries_logits.abs().max()
    assert (predictions[-1].logits - theirs.class_queries_logits).abs().max() < 1e-4
    assert (masks - theirs.masks_queries_logits).abs().max() < 1e-4 * max(scale.item(), 1.0)
    assert theirs.class_queries_logits.std() > 0.1 and scale > 0.1  # the weights do say something


def test_there_and_back_is_the_same_file(folder: Path, tmp_path: Path) -> None:
    assert run(str(folder), str(tmp_path / "ours.pkl"), "--from", "hf") == 0
    assert run(str(tmp_path / "ours.pkl"), str(tmp_path / "model.safetensors"), "--to", "hf") == 0
    before, after = read_weights(str(folder)), read_weights(str(tmp_path / "model.safetensors"))
    # Behind its Swin, transformers keeps a norm that Mask2Former never uses.
    assert {name.rsplit(".", 2)[1] for name in set(before) - set(after)} <= {"layernorm"}
    assert after and all(torch.equal(before[name], tensor) for name, tensor in after.items())
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    loaded, report = transformers.Mask2FormerForUniversalSegmentation.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert all(".layernorm." in name and "encoder" in name for name in report["missing_keys"])
    assert not report["unexpected_keys"] and not report["mismatched_keys"]
    assert torch.equal(loaded.class_predictor.weight, hugging_face().class_predictor.weight)


def test_half_a_model_is_not_written(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = read_weights(str(folder))
    lost = "model.transformer_module.decoder.layers.1.self_attn.k_proj.weight"
    del tensors[lost]
    tensors["surplus.weight"] = torch.zeros(1)
    torch.save(tensors, tmp_path / "half.pth")
    assert run(str(tmp_path / "half.pth"), str(tmp_path / "ours.pth"), "--from", "hf") == 1
    message = capsys.readouterr().err
    assert "surplus.weight" in message and lost.replace("k_proj", "q_proj") in message
    assert "sem_seg_head.predictor.transformer_self_attention_layers.1.self_attn.in_proj_weight" in message
    assert not (tmp_path / "ours.pth").exists()


def test_another_number_of_classes_is_not_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        run(str(folder), str(tmp_path / "ours.pth"), "--from", "hf", opts=["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "6"]) == 1
    )
    assert "class_embed.weight ([6, 64] in the file, [7, 64] in the model)" in capsys.readouterr().err
    assert not (tmp_path / "ours.pth").exists()


def test_files_of_detectron2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ours()
    torch.save({"model": model.state_dict()}, tmp_path / "ours.pth")
    assert run(str(tmp_path / "ours.pth"), str(tmp_path / "published.pkl"), "--to", "detectron2") == 0
    assert run(str(tmp_path / "published.pkl"), str(tmp_path / "back.pth"), "--from", "detectron2") == 0
    back = read_weights(str(tmp_path / "back.pth"))
    assert back.keys() == model.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items())
    assert f"{len(back)} tensors written" in capsys.readouterr().out


def test_swin_file_is_made_and_starts_a_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ours()
    torch.save(model.state_dict(), tmp_path / "ours.pth")
    assert run(str(tmp_path / "ours.pth"), str(tmp_path / "swin.pth"), "--to", "swin") == 0
    assert "Not part of it: " in capsys.readouterr().out
    assert run(str(tmp_path / "swin.pth"), str(tmp_path / "again.pth"), "--from", "swin") == 0
    assert "backbone.norm0.weight" in capsys.readouterr().out
    for name in ("swin.pth", "again.pth"):  # as it is, and converted
        other = ours()
        with torch.no_grad():
            other.backbone.patch_embed.proj.weight.zero_()
        Checkpointer(other).load(str(tmp_path / name))
        assert torch.equal(other.backbone.patch_embed.proj.weight, model.backbone.patch_embed.proj.weight)


@pytest.mark.parametrize("name", ["nowhere.pth", "nowhere.safetensors", "."])
def test_files_that_are_no_weights(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(tmp_path / name), str(tmp_path / "ours.pth"), "--from", "hf") == 1
    assert capsys.readouterr().err.startswith("error: ")
