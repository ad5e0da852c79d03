"""How long the activation of each token is."""
