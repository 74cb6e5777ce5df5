"""Songs as sound: instruments, players, production."""
