"""Credit: from rewards of whole answers, or of steps, to one advantage and one weight per token.

    recipes.py   each method as data: which parts of all below, and which loss
    assign.py    a recipe applied to a round of rollouts
    groups.py    one number per rollout, from rewards and groups
    returns.py   rewards per token, returns, GAE, whitening, the KL controller
    tokens.py    which tokens of an answer the credit falls on
    delta.py     the same, by what separates good answers from bad
    filters.py   groups and answers that should not train

Arrays are numpy float64 (delta.py works on hidden states and so in torch). Suffixes: R rollouts, N their
tokens after the prompt laid end to end, `lengths` how many tokens each rollout has. A reward of NaN says that
the rollout has no Score; an advantage of NaN says that it gets no credit and must not train.
"""
