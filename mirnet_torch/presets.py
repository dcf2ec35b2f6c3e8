"""Build networks from preset names or configurations. A new kind of network is named here.

    create_model("paper")          untrained; `checkpoint.load_model` returns trained ones
    create_model(CompactConfig(cell=4))
"""
from __future__ import annotations

from typing import Any, Mapping

from mirnet_torch.compact import CompactConfig, CompactMIRNet
from mirnet_torch.model import MIRNet, MIRNetConfig
from mirnet_torch.photo import PhotoConfig, PhotoMIRNet

Config = MIRNetConfig | CompactConfig
Network = MIRNet | CompactMIRNet

PRESETS: dict[str, Config] = {
    "paper": MIRNetConfig(),  # the published network: 31,787,419 parameters, 480 GMAC for 256x256
    "mcu": CompactConfig(),  # one 160x120 camera frame on a Cortex-M4: 21,785 parameters, 8 MMAC a frame
    "photo": PhotoConfig(),  # photographs on a laptop: the colours of mcu and a network that removes noise
}
_KINDS: dict[str, type[MIRNetConfig] | type[CompactConfig]] = {
    "mirnet": MIRNetConfig, "compact": CompactConfig, "photo": PhotoConfig}


def create_model(preset_or_config: str | Config) -> Network:
    """Build an untrained network.

    Args:
        preset_or_config: a name of `PRESETS`, or a configuration.

    Raises:
        ValueError: there is no such preset.
    """
    config = find_preset(preset_or_config) if isinstance(preset_or_config, str) else preset_or_config
    if isinstance(config, MIRNetConfig):
        return MIRNet(config)
    return PhotoMIRNet(config) if isinstance(config, PhotoConfig) else CompactMIRNet(config)


def with_colours_of(colours: Network, config: PhotoConfig) -> PhotoMIRNet:
    """Return an untrained network for photographs whose light and colours a trained compact network sets.

    Raises:
        ValueError: the colours of the configuration are those of another network.
    """
    model = PhotoMIRNet(config)
    if not isinstance(colours, CompactMIRNet) or \
            any(getattr(colours.config, name) != getattr(config, name) for name in ("in_channels", "cell", "widths")):
        raise ValueError("is no compact network of the shape that sets the colours of this one")
    model.load_state_dict(colours.state_dict(), strict=False)
    return model


def find_preset(name: str) -> Config:
    """Return a configuration of `PRESETS` by its name.

    Raises:
        ValueError: there is no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}; there are: {', '.join(PRESETS)}")
    return PRESETS[name]


def config_from_dict(fields: Mapping[str, Any]) -> Config:
    """Build a configuration from JSON values: the inverse of `to_dict`.

    "network" names the kind, "mirnet" (also without it), "compact" or "photo"; the last two have a "head", "curve". The
    other values are the fields of its configuration.

    Raises:
        ValueError: there is no such kind, or a value does not fit; the message names it.
        TypeError: there is no such field.
    """
    fields = dict(fields)
    if "head" in fields and "network" not in fields:
        fields = _from_version_0_1(fields)
    kind = fields.pop("network", "mirnet")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"network must be one of {', '.join(_KINDS)}, not {kind!r}")
    if kind != "mirnet" and (head := fields.pop("head", "affine")) != "curve":
        raise ValueError(f"its maps are meant for another head ({head!r}, not 'curve'): use the version that made it, "
                         "or train it anew")
    return _KINDS[kind](**fields)


# Version 0.1 had one kind of network with more fields. These are their values for the published network.
_PUBLISHED_0_1 = {"shuffle": 1, "widths": None, "activation": "prelu", "gate": "sigmoid", "exchange": "full",
                  "resample": "residual", "spatial_kernel": 5, "tail_kernel": 3, "attention": "dual",
                  "fusion": "selective", "head": "residual"}


def _from_version_0_1(fields: dict[str, Any]) -> dict[str, Any]:
    if _PUBLISHED_0_1.items() <= fields.items():
        return {name: value for name, value in fields.items() if name not in _PUBLISHED_0_1}
    other = next(name for name, value in _PUBLISHED_0_1.items() if fields.get(name) != value)
    raise ValueError(f"it was made by version 0.1 with {other}={fields.get(other)!r}, a network that this version does "
                     "not have: use version 0.1")
