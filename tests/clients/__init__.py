"""The blocks of docs/clients.md, and what runs them with the clients that they name."""
