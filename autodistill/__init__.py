"""From which teacher, at which temperatures and loss weights, should this small student learn?"""

__version__ = "0.1.0"
