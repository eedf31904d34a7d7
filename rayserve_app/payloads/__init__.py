"""What a model takes and gives: items of a declared type, and results in a form to be written."""
