"""How hooks reach a module and run there."""
