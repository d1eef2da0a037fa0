"""The mathematics in torch: pure functions, no state, no files. Needs torch at import."""
