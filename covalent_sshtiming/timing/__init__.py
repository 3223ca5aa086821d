"""What a task cost: the record of it, the log it is kept in, and reports over many of them."""
