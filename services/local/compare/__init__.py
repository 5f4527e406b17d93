"""`tppo compare`: several systems on one task, one run after the other, and what each took to learn how much."""
