"""Numba kernels: arrays in, arrays out. Nothing here knows a specification, a store or a message.

====================  =======================================================================================
`layout`              where everything stands in a row, which rows and keys are special, what is counted
`jit`                 how functions are compiled
`build`               finds or compiles a kernel module in the disk cache
`simd`                sixteen floats as one Numba value, and what can be done with it on this processor
`step`                what all models share: time, life of a row, start values, sigmoid, the optimizer's step
`lookup`              keys -> row numbers, admission, removal
`marks`               a bit a row: changed since it was taken, ever stored
`sweep`               old rows, and the removal of many at once
`packing`             rows <-> packed rows
`pooled`              every family, any batch, any k, any optimizer: gathers fields into scratch, plain loops
`tile`, `ffm`         ffm for one-hot events with k <= 8: 16 floats at a time, 4 x 4 or 2 x 2 blocks
`lr`, `fm`, `pair`    lr, fm and fwfm for one-hot events
`libffm`              libffm's own model, sequential and exact
`scan`                a folder of its own: bytes -> keys
====================  =======================================================================================

Formulas: an event has features i with field f_i and value x_i; A_{f,g} = sum_{i in f} x_i v_{i,g};

    logit = b + sum_i w_i x_i + r sum_{f<g} <A_{f,g}, A_{g,f}>        r = 1 / sum x^2 if normalised, else 1
    g(v_{i,g}) = dl r x_i A_{g,f_i}      g(w_i) = dl x_i      g(b) = dl      dl = c (sigmoid(logit) - y)
    n += g^2;  w -= g / (c0 + c1 sqrt n)               sgd: c1 = 0; AdaGrad: c0 = 0; FTRL-Proximal: both (see `step`)

`tests/naive.py` has the same in NumPy, to be read.
"""
