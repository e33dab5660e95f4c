"""What items without a training event are ranked like, and what they cost the others."""
