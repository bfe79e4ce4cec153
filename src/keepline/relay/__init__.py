"""The relay: the process that delivers what the outbox holds."""
