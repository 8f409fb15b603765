"""The Studio: build an agent, try it, and see the loop from its visits to a tuned model. Needs the extra `studio`."""
