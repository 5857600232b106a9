"""The pool: shards on disk, the samples in them, and the index that says where each one lies."""
