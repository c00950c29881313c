"""How it lives: the gateway, engine supervision, policy and the control interface."""
