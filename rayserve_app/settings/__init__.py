"""The YAML: sections, their values, and what is wrong with them."""
