"""Where models come from: files, archives, object storage, packages and their requirements."""
