"""Where images come from, and the epochs, shards, canvases and streams made of them. No framework."""
