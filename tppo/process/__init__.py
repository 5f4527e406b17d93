"""How every process of a run lives: its shell, presence, leased work, server, sockets and event loop."""
