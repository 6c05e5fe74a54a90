"""An arena under other libraries, one module for each. Nothing here is imported by ``import stead``."""
