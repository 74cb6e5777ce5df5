"""The local web page: drop a recording, watch it being separated, listen, take the stems."""
