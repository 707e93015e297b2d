"""Fourier and graph arithmetic as pure functions of tensors: no modules, files or randomness."""
