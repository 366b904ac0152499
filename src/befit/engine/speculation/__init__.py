"""Speculative decoding: several tokens of a sequence computed in one step, with the same output as without it.

Decoding one token reads all weights; reading them for a few more tokens costs little. So cheap guesses at the next
tokens (drafts) are put behind the known ones, and one step gives the logits after each of them. Rows are then sampled
in order with the sequence's one sampler: as long as a sampled token is the draft, the next row's logits are those of
the real text; the first one that differs is kept, as it was sampled from the right logits, and the rows behind it are
void.

Why that changes nothing: a draft is a proposal with all its mass on one token d. For any proposal q and model
distribution p, accepting d with probability min(1, p(d)/q(d)), and else drawing from the normalised positive part of
p - q, gives tokens distributed as p, and no other rule accepts more (Leviathan, Kalman & Matias, arXiv 2211.17192; Chen
et al., arXiv 2302.01318). With q(d) = 1 this accepts with probability p(d) and else draws from p without d: exactly
what happens when x is drawn from p and accepted if it equals d. Here even the tokens are the same, not just their
distribution: a step's logits do not depend on what shares the batch, and random numbers on the seed and the output's
length only, so the x drawn is the token that plain decoding draws. Penalties, bans, scores and ends follow, because a
sampler is asked for real rows only.

    lookup.py       drafts copied from where the text so far occurred before (prompt lookup)
    draft_model.py  drafts of a second, smaller model;  vocabulary.py  refusing one that does not match
    step_time.py    what a step costs, learned from steps;  allot.py  how many drafts that pays for
    speculator.py   all of it before a step
"""
