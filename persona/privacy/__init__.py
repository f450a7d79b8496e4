"""What is held on a person, handed out or erased, and the proof of it. Queries live in the stores."""
