"""What a training is made of, beside its loop in `mirnet_torch.train`: options, samples, loss, recipe, files, log."""
