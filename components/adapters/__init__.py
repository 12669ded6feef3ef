"""Adapters: LoRA and its relatives, as values. They make views of models; the models do not change."""
