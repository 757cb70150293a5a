"""Tandem: a few machines serve one large language model together."""
