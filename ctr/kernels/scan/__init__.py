"""Numba kernels from bytes to keys: record batches, lines, values. What they find is what `ctr.events` promises.

====================  =======================================================================================
`records`             Kafka's record batches, walked over their bytes
====================  =======================================================================================

Compiled apart from the kernels above, which do not change when a scanner does (`build.sources_hash`).
"""
