"""The teacher cache: its format, index, shards, fingerprint, reader and writer."""
