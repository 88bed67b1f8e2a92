"""What each lesson asks: one module a lesson, named like the notebook, the library's module and its test."""
