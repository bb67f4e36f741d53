"""Numba kernels over predictions and packed rows: what quality and the guard are measured by. Nothing here learns.

====================  =======================================================================================
`sums`                predictions, labels and weights into the sums of windows and slices
`judge`               the same into blocks of events, and packed rows into norms
`adwin`               mean losses into the moments at which they change
====================  =======================================================================================

Compiled apart from the kernels above, which do not change when one of these does (`build.sources_hash`).
"""
