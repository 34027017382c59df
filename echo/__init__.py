"""Serves a file of numbers, one a line, that somebody appends to, over HTTP."""

VERSION = "2.0.0"
