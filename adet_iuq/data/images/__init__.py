"""Images: reading them and changing them."""
