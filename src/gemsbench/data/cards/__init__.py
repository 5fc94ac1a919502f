"""Dataset cards in words; no loader imports them, so that a corrected sentence prepares nothing again."""
