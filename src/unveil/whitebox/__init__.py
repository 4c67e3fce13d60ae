"""What can be learnt from a network whose weights are known."""
