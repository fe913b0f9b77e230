"""A module for each command of `manage.py`, which Django calls as the module."""
