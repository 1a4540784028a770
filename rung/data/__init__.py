"""Rows to tokens: formats, chat templates and masks, truncation, packing, mixtures."""
