"""How well audio that is given is changed, continued and closed to a loop, each beside the obvious naive way."""
