"""The vocabulary: words that every other package may use. Imports nothing of ours."""
