"""Prior files: header, layout, storage."""
