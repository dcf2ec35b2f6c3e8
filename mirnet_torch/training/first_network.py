"""The network of a training, with its first weights: untrained, or those that --init names."""
from __future__ import annotations

import json

from mirnet_torch.checkpoint import load_model
from mirnet_torch.cli import UserError
from mirnet_torch.photo import PhotoConfig
from mirnet_torch.presets import PRESETS, Network, config_from_dict, create_model, find_preset, with_colours_of
from mirnet_torch.training.options import TrainOptions


def build_network(options: TrainOptions) -> Network:
    """Return the network of --init, of --config or of the preset, with its first weights.

    Raises:
        UserError: a file cannot be used, or the options name networks that do not go together.
    """
    config = None
    if options.config is not None:
        try:
            fields = json.loads(options.config.read_text())
            if not isinstance(fields, dict):
                raise ValueError('expected an object like {"n_feat": 32}')
            kind = fields.get("network", "mirnet")
            config = config_from_dict(fields if kind == "mirnet" else {"head": "curve", **fields})
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{options.config} is not a configuration of a MIRNet: {error}") from None
    if options.init in (None, "none"):
        model = create_model(config or options.preset)
    else:
        model = load_model(options.init)
        wanted = config or find_preset(options.preset)
        if isinstance(wanted, PhotoConfig) and not isinstance(model.config, PhotoConfig):
            try:
                model = with_colours_of(model, wanted)
            except ValueError as error:
                raise UserError(f"{options.init} {error}: give another --init") from None
        elif config is None and type(model.config) is not type(wanted):
            preset = next(name for name, known in PRESETS.items() if type(known) is type(model.config))
            raise UserError(f"{options.init} holds a network of the kind of --preset {preset}, and --preset is "
                            f"{options.preset}: give --preset {preset}, or another --init")
        if config not in (None, model.config):
            raise UserError(f"{options.init} holds another network than {options.config} describes: leave out one")
    if model.config.in_channels != 3:
        raise UserError(f"training needs a network for RGB images; this one has {model.config.in_channels} channels")
    return model
