"""Routes, one module per noun: translate, call, return. Nothing is computed here."""
