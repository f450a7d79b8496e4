"""What draining rests on: which stage follows which, the lease, what is pending, marks. What a stage does with it lives elsewhere."""
