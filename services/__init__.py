"""The processes around the learner; none of them imports another."""
