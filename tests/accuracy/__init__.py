"""How often is the doctor right? Failures that others reported, rebuilt small, and healthy runs."""
