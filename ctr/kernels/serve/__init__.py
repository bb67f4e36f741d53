"""Kernels that only a scorer calls. A change here compiles nothing else anew (see `ctr.kernels.build`)."""
