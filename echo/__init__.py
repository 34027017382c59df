"""Serves a file of numbers, one a line, that somebody appends to, over HTTP."""

VERSION = "0.2.0"
