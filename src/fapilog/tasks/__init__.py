"""Work that runs beside its caller: background tasks with an owner, group commit, and the life after a fork."""
