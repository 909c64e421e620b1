"""Checks and measures the package on a GPU, stage by stage: tools/gpu_check.sh starts it."""
