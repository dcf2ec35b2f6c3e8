"""How good a picture is: metrics, their intervals, methods to compare with, sheets to look at."""
