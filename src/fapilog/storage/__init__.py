"""Where records are kept: the protocol of a storage, and the storage in files."""
