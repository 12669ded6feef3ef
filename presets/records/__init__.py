"""Records: how a picture was made, kept in its file, and made again from it."""
