"""Jayaram, Woodruff, Zhang, "Span Recovery for Deep Neural Networks", ICLR 2020: its networks and figures."""
