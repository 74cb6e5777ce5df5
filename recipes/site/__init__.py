"""The documentation site: what `make docs` makes beside the pages of docs/."""
