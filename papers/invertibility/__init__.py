"""Analysis of invariance and robustness via invertibility of ReLU-networks (arXiv:1806.09730): figures."""
