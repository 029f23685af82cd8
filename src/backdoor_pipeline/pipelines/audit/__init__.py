"""The audit stage: is a data set poisoned, and what does that do to a model?"""
