"""A generator among others: it joins, keeps pace, hands over, and lends its free slots."""
