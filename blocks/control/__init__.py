"""Pictures that steer the denoiser: control nets and adapters, each a block from `predict` to `predict`."""
