"""What is trained or computed before a method: one vector per item, from text, interactions or both."""
