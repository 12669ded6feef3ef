"""The blocks of training: noise at drawn timesteps, the prediction, its target, and the loss."""
