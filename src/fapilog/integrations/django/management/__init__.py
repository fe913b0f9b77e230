"""The commands of `manage.py`, which Django finds by this place."""
