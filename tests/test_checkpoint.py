"""Load and save weights: which files load, and that weights stay equal. Refused files are in test_bad_input.py."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from golden import DATA, filled, golden

from mirnet_torch import PRESETS, MIRNet, MIRNetConfig, create_model, load_model, save_model
from mirnet_torch.checkpoint import alias_rows, load_notes

WILD = DATA / "small_dataparallel.pth"


def same_weights(a, b):
    theirs = b.state_dict()
    return a.config == b.config and all(torch.equal(row, theirs[name]) for name, row in a.state_dict().items())


def test_checkpoint_in_the_wild_gives_the_golden_output():
    expected, arrays = golden("small_32x48")
    model = load_model(WILD)
    assert not model.training and same_weights(model, expected)
    with torch.inference_mode():
        output = model(torch.from_numpy(arrays["input"])).numpy()
    assert np.abs(output - arrays["output"]).max() <= 3e-5
    assert alias_rows(model) == alias_rows(expected)  # loading does not untie what is shared


@pytest.mark.parametrize("wrap", [
    lambda rows: rows,
    lambda rows: {"state_dict": rows},
    lambda rows: {"params": rows},
    lambda rows: {"state_dict": {f"module.{name}": row for name, row in rows.items()}, "epoch": 3},
    lambda rows: {f"module._orig_mod.{name}": row.clone() for name, row in rows.items()},
    lambda rows: {name: row.half() for name, row in rows.items()},
], ids=["bare", "state_dict", "params", "DataParallel", "compiled copies", "half"])
@pytest.mark.parametrize("config", [
    MIRNetConfig(n_feat=8, n_RRG=1, n_MSRB=1),
    MIRNetConfig(n_feat=8, n_RRG=2, n_MSRB=1, height=2, width=3, in_channels=1, out_channels=1, bias=True,
                 kernel_size=5)], ids=["published", "other"])
def test_configuration_is_inferred_from_the_shapes(tmp_path, wrap, config):
    model = filled(MIRNet(config))
    torch.save(wrap(model.state_dict()), tmp_path / "wild.pth")
    loaded = load_model(tmp_path / "wild.pth")
    assert loaded.config == config
    image = torch.rand(1, config.in_channels, 8, 8)
    torch.testing.assert_close(loaded(image), model(image), rtol=0, atol=1e-2 if "half" in str(wrap) else 5e-3)
    assert next(loaded.parameters()).dtype == torch.float32


def test_old_pickle_format_loads(tmp_path):
    model = filled(MIRNet(MIRNetConfig(n_feat=8, n_RRG=1, n_MSRB=1)))
    torch.save(model.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert same_weights(load_model(tmp_path / "old.pth"), model)


@pytest.mark.parametrize("config", [PRESETS["mcu"], MIRNetConfig(n_feat=8, n_RRG=1, n_MSRB=2, height=4)],
                         ids=["mcu", "published"])
def test_own_file_keeps_everything_and_stores_shared_rows_once(tmp_path, config):
    model = filled(create_model(config))
    save_model(model, tmp_path / "a.safetensors", notes={"psnr": 20.5, "command": "train"})
    loaded = load_model(str(tmp_path / "a.safetensors"))
    assert same_weights(loaded, model)
    assert load_notes(tmp_path / "a.safetensors") == {"psnr": 20.5, "command": "train"}
    stored = safetensors.torch.load_file(tmp_path / "a.safetensors")
    assert set(stored) == set(alias_rows(model).values())
    save_model(loaded, tmp_path / "b.safetensors", notes={"command": "train", "psnr": 20.5})
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_preset_may_be_given_as_a_path():
    assert same_weights(load_model(Path("mcu")), load_model("mcu"))


def test_plain_safetensors_of_others_load(tmp_path):
    model = filled(MIRNet(MIRNetConfig(n_feat=8, n_RRG=1, n_MSRB=1)))
    safetensors.torch.save_model(model, str(tmp_path / "plain.safetensors"))
    assert same_weights(load_model(tmp_path / "plain.safetensors"), model)


def test_training_checkpoint_gives_the_averaged_weights(tmp_path):
    model, averaged = filled(create_model("mcu")), create_model("mcu")
    torch.save({"config": model.config.to_dict(), "model": model.state_dict(), "ema": averaged.state_dict()},
               tmp_path / "last.pt")
    assert same_weights(load_model(tmp_path / "last.pt"), averaged)
