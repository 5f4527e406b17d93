"""The REST interface: the application, who may use it, its errors, and the addresses."""
