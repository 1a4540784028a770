"""IPO: a fixed margin as the target, so that certain preferences do not drive the policy without end."""

from __future__ import annotations

from rung.batch import Batch, Loss, TokenScores
from rung.methods.preference import answers, pair_loss, require_positive


def ipo(scores: TokenScores, batch: Batch, *, beta: float = 0.1) -> Loss:
    """Bring the gap between the two log-ratios to 1 / (2 beta), and no further.

    loss = ((s_w / L_w - s_l / L_l) - 1 / (2 beta))^2, mean over pairs
    s = log policy(answer) - log start(answer), L the tokens of the answer

    Source: Azar et al., 2310.12036, equation 17, where beta is called tau. Changed: log-ratios per token, not
    summed, as the authors ran it; with sums the target would mean less the longer the answers are.

    beta: The gap aimed at is 1 / (2 beta) nats per token.
    """
    require_positive("beta", beta)
    chosen, rejected = answers(scores, batch)
    gap_P = chosen.ratio_P / chosen.tokens_P - rejected.ratio_P / rejected.tokens_P
    return pair_loss((gap_P - 1 / (2 * beta)) ** 2, chosen, rejected)
