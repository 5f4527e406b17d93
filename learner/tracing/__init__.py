"""Token traces: what each step did with each token, one parquet file per step."""
