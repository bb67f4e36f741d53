"""Numba kernels of commit and recovery: what stands between the table and the wire to Redis.

====================  =======================================================================================
`resp`                rows as the fields and values of HSET
`replies`             rows from the reply of HMGET
`places`              keys to row numbers
`freeze`              rows that an event of a replay may read and not change
====================  =======================================================================================

Compiled apart from the kernels above, which do not change when the protocol does (`build.sources_hash`).
"""
