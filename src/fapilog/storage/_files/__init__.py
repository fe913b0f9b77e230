"""The files of a trail: written, read, searched, verified and mended."""
