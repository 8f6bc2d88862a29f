"""Inputs that nobody would write, and what is expected of a daemon that gets them: an answer in
order, whatever it says, and to be afterwards what it was before."""
