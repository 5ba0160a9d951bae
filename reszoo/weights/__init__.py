"""Published weights: their index, safe readers, name grammars and conversion."""
