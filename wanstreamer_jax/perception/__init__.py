"""How the agent hears and sees its user."""
