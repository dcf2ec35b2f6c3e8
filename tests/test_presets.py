"""The networks by name, and configurations as JSON, those of version 0.1 among them."""
from __future__ import annotations

import json

import pytest
import torch

from mirnet_torch import PRESETS, CompactConfig, CompactMIRNet, MIRNet, MIRNetConfig, create_model, load_model
from mirnet_torch.checkpoint import WEIGHTS
from mirnet_torch.presets import config_from_dict, find_preset

# The fields of a configuration as version 0.1 wrote them.
PUBLISHED_0_1 = {"in_channels": 3, "out_channels": 3, "n_feat": 64, "kernel_size": 3, "stride": 2, "n_RRG": 3,
                 "n_MSRB": 2, "height": 3, "width": 2, "bias": False, "shuffle": 1, "widths": None,
                 "activation": "prelu", "gate": "sigmoid", "exchange": "full", "resample": "residual",
                 "spatial_kernel": 5, "tail_kernel": 3, "attention": "dual", "fusion": "selective", "head": "residual"}
MCU_0_1 = PUBLISHED_0_1 | {"n_feat": 16, "kernel_size": 1, "n_RRG": 1, "n_MSRB": 1, "height": 2, "width": 1,
                           "bias": True, "shuffle": 5, "widths": [16, 24], "activation": "relu",
                           "gate": "hard_sigmoid", "exchange": "down", "resample": "plain", "spatial_kernel": 3,
                           "tail_kernel": 1, "attention": "peak", "head": "affine"}


def test_presets():
    assert find_preset("paper") == MIRNetConfig() and find_preset("mcu") == CompactConfig()
    assert isinstance(create_model(MIRNetConfig(n_feat=8, n_RRG=1)), MIRNet)
    mcu = create_model("mcu")
    assert isinstance(mcu, CompactMIRNet)
    kinds = {type(module).__name__ for module in mcu.modules()}
    assert {"ProjectedSpatialAttention", "PeakChannelAttention", "HardSKFF", "DAU", "RRG"} <= kinds
    with pytest.raises(ValueError, match="paper, mcu"):
        create_model("huge")


@pytest.mark.parametrize("config", [*PRESETS.values(), MIRNetConfig(n_feat=8, height=2, bias=True),
                                    CompactConfig(in_channels=1, cell=4, widths=(8, 16))], ids=str)
def test_config_survives_json(config):
    assert config_from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_configurations_of_version_0_1():
    assert config_from_dict(PUBLISHED_0_1) == MIRNetConfig()
    assert config_from_dict(PUBLISHED_0_1 | {"n_feat": 8, "height": 2}) == MIRNetConfig(n_feat=8, height=2)


@pytest.mark.parametrize("fields, changes, word", [
    (PUBLISHED_0_1, {"gate": "hard_sigmoid"}, "gate='hard_sigmoid'"),
    (PUBLISHED_0_1, {"head": "affine"}, "version 0.1"), (MCU_0_1, {}, "version 0.1"),
    (CompactConfig().to_dict(), {"head": "affine"}, "another head"),
    (CompactConfig().to_dict(), {"head": 3}, "another head")], ids=str)
def test_networks_of_earlier_versions_are_named(fields, changes, word):
    with pytest.raises(ValueError, match=word):
        config_from_dict(fields | changes)


def test_a_compact_network_without_a_head_has_the_earlier_one():
    fields = CompactConfig().to_dict()
    del fields["head"]
    with pytest.raises(ValueError, match="another head .'affine', not 'curve'.*train it anew"):
        config_from_dict(fields)


def test_unknown_kinds_and_fields_are_named():
    with pytest.raises(ValueError, match="network must be one of mirnet, compact, photo, not 'unet'"):
        config_from_dict({"network": "unet"})
    with pytest.raises(TypeError, match="depth"):
        config_from_dict({"depth": 3})


def test_weights_that_ship_load_by_name():
    model = load_model("mcu")
    assert model.config == PRESETS["mcu"] and not model.training
    assert load_model(WEIGHTS / "mcu.safetensors").config == model.config
    with torch.inference_mode():
        assert model(torch.full((1, 3, 120, 160), 0.05)).mean() > 0.1
