"""The learner: owns the prompts, the ledger of rollouts, the two models and the weights' versions."""
