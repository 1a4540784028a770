"""DelTA from end to end: the weights a round stores are those of the states the model had then."""

import numpy as np
import torch
from rl_case import play, rounds, steps

from rung.advantages.delta import delta_weights
from rung.models.load import load_model


def test_the_weights_of_a_round_are_delta_of_the_states_that_predicted_its_tokens(tiny_folder, tmp_path):
    torch.set_num_threads(1)
    run = play(
        tiny_folder, tmp_path / "run", kind="talk", method="delta", updates=2, rounds=2, save_every=2,
        optimizer__learning_rate=0.02, max_tokens=6,
    )  # fmt: skip
    folders = [tiny_folder, run / "checkpoints" / "step-000002"]
    for graded, folder in zip(rounds(run), folders, strict=True):
        model = load_model(folder).eval()
        advantage, logprob, states, weight = [], [], [], []
        for record in graded:
            rollout = record.rollout
            own = np.flatnonzero(rollout.by_model)
            # by hand: the whole conversation through the model, one at a time; token t is predicted at t - 1
            ids = torch.from_numpy(np.concatenate([rollout.prompt_ids, rollout.token_ids])).long()
            states_ND, logprobs_NV = read(model, ids)
            sites = own + len(rollout.prompt_ids) - 1
            states.append(states_ND[sites])
            logprob.append(logprobs_NV[sites, rollout.token_ids[own]])
            advantage.append(torch.from_numpy(record.advantage[own]))
            weight.append(record.weight[own])
            assert not record.weight[~rollout.by_model].any()
        expected = delta_weights(torch.cat(advantage), torch.cat(logprob), torch.cat(states))
        assert np.allclose(np.concatenate(weight), expected, atol=1e-3)
        assert expected.std() > 0.01 and abs(np.concatenate(weight).mean() - 1) < 1e-5
    assert steps(run)[0]["grad_norm"] > 0


@torch.no_grad()
def read(model, ids):
    from rung.models.decoder import Documents

    states_ND = model(ids, torch.arange(len(ids)), Documents((len(ids),))).states_ND
    return states_ND, model.logits(states_ND).log_softmax(-1)
