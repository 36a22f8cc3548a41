"""How responsive the event loop is, and who is to blame where it isn't."""
