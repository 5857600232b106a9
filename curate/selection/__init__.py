"""From scores and a budget to the kept samples.

`budget` says how many, `rank` orders, `quotas` divides among classes, `strata` decides on each sample.
"""
