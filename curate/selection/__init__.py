"""From scores and a budget to the kept samples.

`budget` says how many, `rank` orders, `quotas` divides among classes, `strata` decides on each sample.
From embeddings and a budget: `k_centers` chooses samples that cover the others, `parts` does so class by
class or partition by partition, and `distances` says how far two samples are from each other.
"""
