"""The core: the trail, the signals, and the way to the dispatcher. It knows of no vendor."""

__all__: list[str] = []
