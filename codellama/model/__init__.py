"""The paper: the decoder, one concept a file."""
