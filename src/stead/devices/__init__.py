"""Devices that share the addresses of this process: their drivers, their memory, what limits them."""
