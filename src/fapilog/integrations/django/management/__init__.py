"""What Django finds by its place: the commands of `manage.py`."""
