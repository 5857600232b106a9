"""The manifest: what to keep of every shard, and the record of how that was decided.

`lines` and `stream` import the standard library and zstandard alone, because `curate cat` is made
of them. `schema`, `write` and `verify` know the rest.
"""
