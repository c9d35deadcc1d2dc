"""Networks as pure functions of a parameter tree."""
