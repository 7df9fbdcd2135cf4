"""Data-free distillation of flow-matching teachers into one-step flow maps, on PyTorch Lightning."""
