"""What several test files need: interpreters, a faulty link, clients, and a look at what is left running."""
