"""What can be learnt from something that may only be asked."""
