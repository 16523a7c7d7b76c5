"""The paper's terms, each explained once. Equations are those of RSO (arXiv:2309.06657)."""

from typing import NamedTuple

_PAPER = "https://arxiv.org/abs/2309.06657"


class Entry(NamedTuple):
    """What a term means; `where` names the place in the paper."""

    term: str
    meaning: str
    where: str
    link: str = _PAPER


GLOSSARY: dict[str, Entry] = {
    "sft": Entry(
        "SFT policy π_sft",
        "The base model after supervised fine-tuning on prompts with targets. Candidates are sampled from it and the losses measure against it.",
        "§2.2",
    ),
    "reward_model": Entry(
        "Reward-ranking model ρ_ψ",
        "A text-to-text model that reads a prompt with two responses and says with which probability the first one is preferred.",
        "§3.1, eq. 6",
    ),
    "reward": Entry(
        "Reward r_ψ", "The logit of ρ_ψ that a candidate beats the baseline response of its prompt.", "eq. 7"
    ),
    "beta": Entry(
        "Temperature β",
        "How far rejection sampling may go from π_sft: the target policy is π_sft(y|x)·exp(r(x, y)/β) up to a constant. β = 0 keeps the best candidate, β → ∞ keeps random ones. It is not the slope γ of the loss.",
        "eq. 4, Algorithm 1",
    ),
    "gamma": Entry(
        "Slope γ",
        "How strongly the loss reacts to the log-ratio between chosen and rejected response. Elsewhere it is called DPO's β. It is not the temperature of rejection sampling.",
        "eq. 8 – 10",
    ),
    "acceptance": Entry(
        "Acceptance rate",
        "The share of trials that rejection sampling accepts. Observed: accepted over tried. Expected: the mean of exp((r − r_max)/β) over the candidates still in play.",
        "Algorithm 1, Theorem 1",
    ),
    "kl": Entry(
        "KL from π_sft",
        "How far the policy has gone from where it began: nats a response, summed over the whole vocabulary at every token of responses that the policy wrote itself at temperature 1. Measured on validation prompts.",
        "eq. 3",
    ),
    "length_controlled": Entry(
        "At equal length",
        "The win rate that a logistic regression on the difference in length predicts where there is no difference. Far below the plain rate: the wins are due to length.",
        "product rule",
    ),
    "distinct": Entry(
        "Distinct-2",
        "The share of different ones among all pairs of neighbouring words in the responses. It falls when a policy repeats itself.",
        "product rule",
    ),
    "cost": Entry(
        "Cost of the training data",
        "Sampled responses and comparisons by the reward model for each prompt, up to the pairs or targets. A comparison counts once whatever the orders averaged; games between identical texts are decided without one.",
        "Table 7",
    ),
    "ess": Entry(
        "Effective sample size",
        "How many equally weighted candidates the weights exp(r/β) are worth. A small one means that few candidates carry the target policy.",
        "§3.2",
    ),
    "proxy_win_rate": Entry(
        "Proxy win rate",
        "The share of test prompts on which the reward-ranking model prefers the policy's response to the SFT target; ties count one half.",
        "§4",
    ),
    "gold_win_rate": Entry(
        "Gold win rate",
        "The same share, judged by a reward that nothing was trained on. For the built-in task it is exact.",
        "§4",
    ),
    "auto_sxs": Entry(
        "AutoSxS",
        "A few-shot language model judges the response against the SFT target: 8 answers, 4 of them with A and B exchanged. Their mean from −1 to 1 is a win above 0.35, a loss below −0.35, else a tie; the score is wins + ties/2. Prompts with fewer than two readable answers in either order are unjudged and left out.",
        "§4",
    ),
    "judge_accuracy": Entry(
        "Judge accuracy",
        "How often AutoSxS agrees with people on held-out pairs. When its 95 % interval holds 50 %, the judge is not better than chance and its win rates mean nothing.",
        "§4",
    ),
    "gold_reward_model": Entry(
        "Gold reward model",
        "A second reward-ranking model, with its own base model, data or both. It measures and nothing is trained or selected with it, so it shows what the policy learned about the first one's mistakes.",
        "§4",
    ),
    "sigmoid_norm": Entry(
        "sigmoid-norm loss", "Logistic loss on the log-ratios normalised by π_sft: the loss of DPO.", "eq. 8"
    ),
    "hinge": Entry("hinge loss", "Hinge loss on the log-likelihoods, without a reference: the loss of SLiC.", "eq. 9"),
    "hinge_norm": Entry("hinge-norm loss", "Hinge loss on the log-ratios normalised by π_sft.", "eq. 10"),
    "slic": Entry(
        "slic loss",
        "Hinge loss on the log-likelihoods with a margin δ in nats, plus λ times the cross-entropy of a reference response: the loss of SLiC-HF.",
        "eq. 1",
    ),
    "cross_entropy": Entry(
        "cross-entropy",
        "The loss of SFT, on candidates chosen by the reward model: the best one (RAFT), or all above a threshold (ReST).",
        "§4, Table 1",
    ),
    "pair_source": Entry(
        "Pair source",
        "direct: human pairs as they are. sft-sample-rank: pairs of random samples of π_sft, labelled by ρ_ψ. rso-sample-rank: pairs of samples kept by statistical rejection sampling, labelled by ρ_ψ.",
        "§3.3, Table 1",
    ),
    "root": Entry(
        "Conversation root",
        "The first human turn. Everything that begins with it is in one split, in every dataset of a run, so that no conversation leaks from training into the figures.",
        "product rule",
    ),
    "tie": Entry(
        "Clear / not distinguishable",
        "Clear: the 95 % interval of the paired difference excludes 0. Otherwise the two are not distinguishable at this N.",
        "product rule",
    ),
}
