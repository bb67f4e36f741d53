"""Numba kernels that only read a table: for ranking and for looking rows up. Nothing here changes a row or the index.

====================  =======================================================================================
`ffm`                 one context against many candidates, one-hot ffm with k <= 8
`narrow`              one block of a row (4 or 8 floats) as a vector
====================  =======================================================================================

Compiled apart from the kernels above, which do not change when one of these does (`build.sources_hash`).
"""
