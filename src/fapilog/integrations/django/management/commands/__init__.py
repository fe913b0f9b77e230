"""One module per command of `manage.py`; the command has the name of the module."""
