"""Songs as notes: composed, or read from MIDI files."""
