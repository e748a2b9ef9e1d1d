"""The commands, one module each; a script at the top of the checkout calls each."""
