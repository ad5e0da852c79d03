"""Contract tests for engines and model loaders, and a small model that reads text."""
