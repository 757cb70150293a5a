"""Which machines there are and whom an epoch may use; pure, and the clock is passed in."""
