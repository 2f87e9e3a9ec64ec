"""What every layer does along sampling."""
