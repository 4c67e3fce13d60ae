"""The search behind `row_span`, on oracles that answer values: a frozen `State` handed from step to step."""
