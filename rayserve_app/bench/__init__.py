"""The benchmark behind `rayserve-app bench`: what the README's figures come from."""
