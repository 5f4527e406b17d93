"""Generated stubs of proto/tppo/v1; `make proto` writes them."""
