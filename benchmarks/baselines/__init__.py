"""Rivals of our own writing: the papers' networks as plain eager modules. Once landed, a baseline is not edited."""
