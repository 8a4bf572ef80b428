"""Other answers to the exercises of `course_lib.mlm`: right ones, and known mistakes reworded."""

import random

import torch
from torch.nn import functional as F

# mask_tokens, right


def bernoulli_as_in_transformers(
    ids, special_tokens_mask, mask_id, vocab_size, p=0.15, generator=None
):
    labels, inputs = ids.clone(), ids.clone()
    probabilities = torch.full(ids.shape, p)
    probabilities.masked_fill_(special_tokens_mask.bool(), 0.0)
    chosen = torch.bernoulli(probabilities, generator=generator).bool()
    labels[~chosen] = -100
    masked = torch.bernoulli(torch.full(ids.shape, 0.8), generator=generator).bool() & chosen
    inputs[masked] = mask_id
    half = torch.bernoulli(torch.full(ids.shape, 0.5), generator=generator).bool()
    replaced = half & chosen & ~masked
    words = torch.randint(vocab_size, ids.shape, generator=generator)
    inputs[replaced] = words[replaced]
    return inputs, labels


def one_draw_split_at_shares_of_p(
    ids, special_tokens_mask, mask_id, vocab_size, p=0.15, generator=None
):
    draw = torch.rand(ids.shape, generator=generator).masked_fill(special_tokens_mask == 1, 2.0)
    words = torch.randint(0, vocab_size, ids.shape, generator=generator)
    inputs = torch.where(draw < 0.9 * p, words, ids)
    inputs = torch.where(draw < 0.8 * p, mask_id, inputs)
    return inputs, torch.where(draw < p, ids, -100)


def token_by_token(ids, special_tokens_mask, mask_id, vocab_size, p=0.15, generator=None):
    inputs, labels = ids.tolist(), [[-100] * ids.shape[1] for _ in ids]
    draws = torch.rand(*ids.shape, 2, generator=generator).tolist()
    words = torch.randint(vocab_size, ids.shape, generator=generator).tolist()
    for b, row in enumerate(special_tokens_mask.tolist()):
        for t, special in enumerate(row):
            if special or draws[b][t][0] >= p:
                continue
            labels[b][t] = inputs[b][t]
            if draws[b][t][1] < 0.8:
                inputs[b][t] = mask_id
            elif draws[b][t][1] < 0.9:
                inputs[b][t] = words[b][t]
    return torch.tensor(inputs), torch.tensor(labels)


def exact_shares_by_shuffling(
    ids, special_tokens_mask, mask_id, vocab_size, p=0.15, generator=None
):
    """Fixed numbers instead of coins, as in BERT's own data; [MASK] is no random word."""
    inputs, labels = ids.flatten().clone(), torch.full((ids.numel(),), -100)
    places = (special_tokens_mask.flatten() == 0).nonzero().squeeze(-1)
    places = places[torch.randperm(len(places), generator=generator)][: round(p * len(places))]
    labels[places] = inputs[places]
    masked, replaced = round(0.8 * len(places)), round(0.1 * len(places))
    words = torch.randint(vocab_size - 1, (replaced,), generator=generator)
    inputs[places[:masked]] = mask_id
    inputs[places[masked : masked + replaced]] = words + (words >= mask_id)
    return inputs.view(ids.shape), labels.view(ids.shape)


def fates_by_multinomial(ids, special_tokens_mask, mask_id, vocab_size, p=0.15, generator=None):
    shares = torch.tensor([1 - p, 0.8 * p, 0.1 * p, 0.1 * p])
    fate = torch.multinomial(shares, ids.numel(), replacement=True, generator=generator)
    fate = fate.view(ids.shape) * (1 - special_tokens_mask.long())
    words = torch.empty_like(ids).random_(0, vocab_size, generator=generator)
    inputs = ids * (fate % 3 == 0) + mask_id * (fate == 1) + words * (fate == 2)
    return inputs, ids * (fate > 0) - 100 * (fate == 0)


# mask_tokens, wrong


def shares_the_storage(ids, special_tokens_mask, mask_id, vocab_size, p=0.15, generator=None):
    inputs, labels = ids, ids
    chosen = (torch.rand(ids.shape, generator=generator) < p) & ~special_tokens_mask.bool()
    labels[~chosen] = -100
    inputs[chosen & (torch.rand(ids.shape, generator=generator) < 0.8)] = mask_id
    return inputs, labels


def writes_into_the_mask(ids, special_tokens_mask, mask_id, vocab_size, p=0.15, generator=None):
    special_tokens_mask[torch.rand(ids.shape, generator=generator) >= p] = 1
    chosen = special_tokens_mask == 0
    fate = torch.rand(ids.shape, generator=generator)
    words = torch.randint(vocab_size, ids.shape, generator=generator)
    inputs = torch.where(chosen & (fate < 0.9), words, ids)
    inputs = torch.where(chosen & (fate < 0.8), mask_id, inputs)
    return inputs, torch.where(chosen, ids, -100)


def one_clone_for_both(ids, special_tokens_mask, mask_id, vocab_size, p=0.15, generator=None):
    inputs = labels = ids.clone()
    chosen = (torch.rand(ids.shape, generator=generator) < p) & ~special_tokens_mask.bool()
    labels[~chosen] = -100
    fate = torch.rand(ids.shape, generator=generator)
    words = torch.randint(vocab_size, ids.shape, generator=generator)
    replaced = chosen & (fate >= 0.8) & (fate < 0.9)
    inputs[chosen & (fate < 0.8)] = mask_id
    inputs[replaced] = words[replaced]
    return inputs, labels


def labels_but_for_specials(ids, special_tokens_mask, mask_id, vocab_size, p=0.15, generator=None):
    inputs, _ = bernoulli_as_in_transformers(
        ids, special_tokens_mask, mask_id, vocab_size, p, generator
    )
    return inputs, ids.masked_fill(special_tokens_mask.bool(), -100)


def labels_where_changed(ids, special_tokens_mask, mask_id, vocab_size, p=0.15, generator=None):
    inputs, labels = bernoulli_as_in_transformers(
        ids, special_tokens_mask, mask_id, vocab_size, p, generator
    )
    return inputs, labels.masked_fill(inputs == ids, -100)


def labels_on_masks_and_random(
    ids, special_tokens_mask, mask_id, vocab_size, p=0.15, generator=None
):
    draw = torch.rand(ids.shape, generator=generator).masked_fill(special_tokens_mask == 1, 2.0)
    words = torch.randint(0, vocab_size, ids.shape, generator=generator)
    inputs = torch.where(draw < 0.9 * p, words, ids)
    inputs = torch.where(draw < 0.8 * p, mask_id, inputs)
    return inputs, torch.where(draw < 0.9 * p, ids, -100)


def leaves_out_only_the_first(
    ids, special_tokens_mask, mask_id, vocab_size, p=0.15, generator=None
):
    only_first = torch.zeros_like(special_tokens_mask)
    only_first[:, 0] = 1
    return bernoulli_as_in_transformers(ids, only_first, mask_id, vocab_size, p, generator)


def labels_specials(ids, special_tokens_mask, mask_id, vocab_size, p=0.15, generator=None):
    chosen = torch.rand(ids.shape, generator=generator) < p
    ordinary = special_tokens_mask == 0
    fate = torch.rand(ids.shape, generator=generator)
    words = torch.randint(vocab_size, ids.shape, generator=generator)
    inputs = torch.where(chosen & ordinary & (fate < 0.9), words, ids)
    inputs = torch.where(chosen & ordinary & (fate < 0.8), mask_id, inputs)
    return inputs, torch.where(chosen, ids, -100)


def one_minus_the_mask(ids, special_tokens_mask, mask_id, vocab_size, p=0.15, generator=None):
    chosen = (torch.rand(ids.shape, generator=generator) < p) * (1 - special_tokens_mask.long())
    inputs, labels = ids.clone(), torch.full_like(ids, -100)
    labels[chosen] = ids[chosen]
    inputs[chosen * (torch.rand(ids.shape, generator=generator) < 0.8)] = mask_id
    return inputs, labels


def masks_in_place_of_all(ids, special_tokens_mask, mask_id, vocab_size, p=0.15, generator=None):
    draw = torch.rand(ids.shape, generator=generator).masked_fill(special_tokens_mask == 1, 1.0)
    inputs, labels = ids.clone(), torch.full_like(ids, -100)
    labels[draw < p] = ids[draw < p]
    inputs[labels != -100] = mask_id
    return inputs, labels


def same_draw_again(ids, special_tokens_mask, mask_id, vocab_size, p=0.15, generator=None):
    draw = torch.rand(ids.shape, generator=generator)
    chosen = (draw < p) & ~special_tokens_mask.bool()
    inputs = ids.clone()
    inputs[chosen & (draw < 0.8)] = mask_id
    replaced = chosen & ~(draw < 0.8) & (draw < 0.9)
    inputs[replaced] = torch.randint(vocab_size, (int(replaced.sum()),), generator=generator)
    return inputs, ids.masked_fill(~chosen, -100)


def overlapping(order, chances):
    """Draws each fate of `order` for all chosen tokens; a later one takes from an earlier."""

    def answer(ids, special_tokens_mask, mask_id, vocab_size, p=0.15, generator=None):
        chosen = (torch.rand(ids.shape, generator=generator) < p) & ~special_tokens_mask.bool()
        made = {
            "masked": torch.full_like(ids, mask_id),
            "replaced": torch.randint(vocab_size, ids.shape, generator=generator),
            "kept": ids,
        }
        rest = next(iter(made.keys() - set(order)), "kept")
        inputs = torch.where(chosen, made[rest], ids)
        for fate in order:
            picked = torch.rand(ids.shape, generator=generator) < chances[fate]
            inputs = torch.where(chosen & picked, made[fate], inputs)
        return inputs, ids.masked_fill(~chosen, -100)

    return answer


BERT = {"masked": 0.8, "replaced": 0.1, "kept": 0.1}
BERNOULLI = {"masked": 0.8, "replaced": 0.5}


def masks_or_replaces(ids, special_tokens_mask, mask_id, vocab_size, p=0.15, generator=None):
    chosen = (torch.rand(ids.shape, generator=generator) < p) & ~special_tokens_mask.bool()
    masked = torch.rand(ids.shape, generator=generator) < 0.9
    words = torch.randint(vocab_size, ids.shape, generator=generator)
    inputs = torch.where(chosen, torch.where(masked, mask_id, words), ids)
    return inputs, ids.masked_fill(~chosen, -100)


def words_of_bert(ids, special_tokens_mask, mask_id, vocab_size, p=0.15, generator=None):
    return bernoulli_as_in_transformers(ids, special_tokens_mask, mask_id, 30_522, p, generator)


def words_one_too_many(ids, special_tokens_mask, mask_id, vocab_size, p=0.15, generator=None):
    return bernoulli_as_in_transformers(
        ids, special_tokens_mask, mask_id, vocab_size + 1, p, generator
    )


def only_words_without_generator(
    ids, special_tokens_mask, mask_id, vocab_size, p=0.15, generator=None
):
    draw = torch.rand(ids.shape, generator=generator).masked_fill(special_tokens_mask == 1, 2.0)
    inputs = torch.where(draw < 0.9 * p, torch.randint(vocab_size, ids.shape), ids)
    inputs = torch.where(draw < 0.8 * p, mask_id, inputs)
    return inputs, torch.where(draw < p, ids, -100)


def generator_of_its_own(ids, special_tokens_mask, mask_id, vocab_size, p=0.15, generator=None):
    own = torch.Generator().manual_seed(0)
    return bernoulli_as_in_transformers(ids, special_tokens_mask, mask_id, vocab_size, p, own)


def seeds_from_the_clock(ids, special_tokens_mask, mask_id, vocab_size, p=0.15, generator=None):
    own = torch.Generator().manual_seed(random.SystemRandom().getrandbits(31))
    return bernoulli_as_in_transformers(ids, special_tokens_mask, mask_id, vocab_size, p, own)


# mlm_loss, right


def cross_entropy_of_chosen(logits, labels):
    chosen = labels != -100
    total = F.cross_entropy(logits[chosen], labels[chosen], reduction="sum")
    return total / max(int(chosen.sum()), 1)


def position_by_position(logits, labels):
    total, count = logits.sum() * 0, 0
    for row, label in zip(logits.flatten(0, -2), labels.flatten().tolist(), strict=True):
        if label != -100:
            total = total + torch.logsumexp(row.float(), dim=0) - row[label].float()
            count += 1
    return total / max(count, 1)


def one_hot_in_float64(logits, labels):
    words = torch.arange(logits.shape[-1])
    one_hot = (labels.unsqueeze(-1) == words).double()
    log_probabilities = logits.double().log_softmax(dim=-1)
    return -torch.einsum("...v,...v->", one_hot, log_probabilities) / one_hot.sum().clamp(min=1)


def subtracts_the_largest(logits, labels):
    chosen = labels != -100
    shifted = logits.float() - logits.float().amax(dim=-1, keepdim=True).detach()
    losses = shifted.exp().sum(dim=-1).log()
    losses = losses - shifted.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return torch.where(chosen, losses, 0.0).sum() / chosen.sum().clamp(min=1)


def zero_times_the_logits(logits, labels):
    flat = labels.reshape(-1)
    if (flat == -100).all():
        return 0.0 * logits.sum()
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), flat)


def zero_of_its_own(logits, labels):
    if (labels == -100).all():
        return torch.zeros((), requires_grad=True)
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten())


# mlm_loss, wrong


def does_not_ignore(logits, labels):
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=-1)


def indexes_from_the_end(logits, labels):
    log_probabilities = logits.log_softmax(dim=-1).flatten(0, -2)
    return -log_probabilities[torch.arange(labels.numel()), labels.flatten()].mean()


def gathers_minus_hundred(logits, labels):
    return -logits.log_softmax(dim=-1).gather(-1, labels.unsqueeze(-1)).mean()


def takes_zero_for_ignored(logits, labels):
    labels = torch.where(labels == -100, 0, labels)
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten())


def sums_all_divides_by_chosen(logits, labels):
    picked = logits.log_softmax(dim=-1).gather(-1, labels.clamp(min=0).unsqueeze(-1))
    return -picked.sum() / (labels != -100).sum().clamp(min=1)


def encodes_one_hot(logits, labels):
    one_hot = F.one_hot(labels, logits.shape[-1])
    return -(one_hot * logits.log_softmax(dim=-1)).sum() / (labels != -100).sum()


def mean_of_unreduced(logits, labels):
    losses = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")
    return losses.mean()


def mean_of_row_means(logits, labels):
    if labels.ndim == 1:
        logits, labels = logits.unsqueeze(0), labels.unsqueeze(0)
    pairs = zip(logits, labels, strict=True)
    return torch.stack([cross_entropy_of_chosen(*pair) for pair in pairs]).mean()


def sum_of_cross_entropies(logits, labels):
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="sum")


def mean_of_cross_entropies(logits, labels):
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten())


def hides_the_value_not_the_gradient(logits, labels):
    chosen = labels != -100
    picked = logits.log_softmax(dim=-1).gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return torch.where(chosen.any(), -(picked * chosen).sum() / chosen.sum(), 0.0)


def plain_zero(logits, labels):
    if (labels == -100).all():
        return 0.0
    return mean_of_cross_entropies(logits, labels)


def log_of_softmax_and_a_little(logits, labels):
    chosen = labels != -100
    logs = torch.log(torch.softmax(logits, dim=-1) + 1e-6)
    picked = logs.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return -(picked * chosen).sum() / chosen.sum().clamp(min=1)


def log_of_softmax_and_very_little(logits, labels):
    chosen = labels != -100
    logs = torch.log(torch.softmax(logits.float(), dim=-1) + 1e-9)
    picked = logs.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return -(picked * chosen).sum() / chosen.sum().clamp(min=1)


def sums_exponentials(logits, labels):
    chosen = labels != -100
    picked = logits.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    losses = logits.exp().sum(dim=-1).log() - picked
    return torch.where(chosen, losses, 0.0).sum() / chosen.sum().clamp(min=1)


def log_of_softmax_in_float64(logits, labels):
    chosen = labels != -100
    logs = torch.softmax(logits.double(), dim=-1).log()
    picked = logs.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return -torch.where(chosen, picked, 0.0).sum() / chosen.sum().clamp(min=1)


# causal_lm_loss, right


def shifted_labels(logits, ids, attention_mask):
    labels = ids.clone()
    labels[:, 1:][(attention_mask[:, 1:] * attention_mask[:, :-1]) == 0] = -100
    return cross_entropy_of_chosen(logits[:, :-1], labels[:, 1:])


def rolled_ids(logits, ids, attention_mask):
    following, real = ids.roll(-1, dims=1), attention_mask.roll(-1, dims=1) * attention_mask
    real = real.double()
    real[:, -1:] = 0
    losses = torch.logsumexp(logits.double(), dim=-1)
    losses = losses - logits.double().gather(-1, following.unsqueeze(-1)).squeeze(-1)
    return (losses * real).sum() / real.sum().clamp(min=1)


def token_after_token(logits, ids, attention_mask):
    losses = []
    for b in range(ids.shape[0]):
        for t in range(1, ids.shape[1]):
            if attention_mask[b, t] and attention_mask[b, t - 1]:
                losses.append(-logits[b, t - 1].float().log_softmax(dim=-1)[ids[b, t]])
    return torch.stack(losses).mean() if losses else logits.sum() * 0


def weighted_one_hot(logits, ids, attention_mask):
    weights = (attention_mask[:, 1:] * attention_mask[:, :-1]).to(torch.float64)
    target = F.one_hot(ids[:, 1:], logits.shape[-1]).double()
    logs = logits[:, :-1].double().log_softmax(dim=-1)
    return -torch.einsum("bt,btv,btv->", weights, target, logs) / weights.sum().clamp(min=1)


# causal_lm_loss, wrong


def own_tokens(logits, ids, attention_mask):
    return cross_entropy_of_chosen(logits, ids.masked_fill(attention_mask == 0, -100))


def previous_tokens(logits, ids, attention_mask):
    labels = ids.masked_fill(attention_mask == 0, -100)
    return cross_entropy_of_chosen(logits[:, 1:], labels[:, :-1])


def rolls_the_wrong_way(logits, ids, attention_mask):
    labels = ids.masked_fill(attention_mask == 0, -100).roll(1, dims=1)
    labels[:, 0] = -100
    return cross_entropy_of_chosen(logits, labels)


def rolls_and_keeps_the_last(logits, ids, attention_mask):
    labels = ids.masked_fill(attention_mask == 0, -100).roll(-1, dims=1)
    return cross_entropy_of_chosen(logits, labels)


def indexes_with_the_targets_mask(logits, ids, attention_mask):
    losses = F.cross_entropy(logits[:, :-1].mT, ids[:, 1:], reduction="none")
    return losses[attention_mask[:, 1:]].mean()


def shifts_and_forgets_the_mask(logits, ids, attention_mask):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def mask_of_the_contexts(logits, ids, attention_mask):
    labels = ids[:, 1:].masked_fill(attention_mask[:, :-1] == 0, -100)
    return cross_entropy_of_chosen(logits[:, :-1], labels)


def mask_of_the_targets(logits, ids, attention_mask):
    labels = ids.masked_fill(attention_mask == 0, -100)
    return cross_entropy_of_chosen(logits[:, :-1], labels[:, 1:])


def zeroes_padding_and_takes_the_mean(logits, ids, attention_mask):
    losses = F.cross_entropy(logits[:, :-1].mT, ids[:, 1:], reduction="none")
    return (losses * attention_mask[:, 1:] * attention_mask[:, :-1]).mean()


def mean_over_rows(logits, ids, attention_mask):
    losses = F.cross_entropy(logits[:, :-1].mT, ids[:, 1:], reduction="none")
    real = attention_mask[:, 1:] * attention_mask[:, :-1]
    return ((losses * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)).mean()


def mean_of_pairs(logits, ids, attention_mask):
    labels = ids[:, 1:].masked_fill(attention_mask[:, 1:] * attention_mask[:, :-1] == 0, -100)
    return mean_of_cross_entropies(logits[:, :-1], labels)


def divides_by_the_sum_of_the_mask(logits, ids, attention_mask):
    losses = F.cross_entropy(logits[:, :-1].mT, ids[:, 1:], reduction="none")
    real = attention_mask[:, 1:] * attention_mask[:, :-1]
    return (losses * real).sum() / real.sum()


def gives_up_early(logits, ids, attention_mask):
    real = attention_mask[:, 1:] * attention_mask[:, :-1]
    if real.sum() == 0:
        return logits.new_zeros(())
    return mean_of_pairs(logits, ids, attention_mask)


def log_of_softmax_times_mask(logits, ids, attention_mask):
    real = attention_mask[:, 1:].bool() & attention_mask[:, :-1].bool()
    logs = torch.softmax(logits.float(), dim=-1)[:, :-1].clamp(min=1e-12).log()
    picked = logs.gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1)
    return -(picked * real).sum() / real.sum().clamp(min=1)


RIGHT = {
    "mask_tokens": [
        bernoulli_as_in_transformers,
        one_draw_split_at_shares_of_p,
        token_by_token,
        exact_shares_by_shuffling,
        fates_by_multinomial,
    ],
    "mlm_loss": [
        cross_entropy_of_chosen,
        position_by_position,
        one_hot_in_float64,
        subtracts_the_largest,
        zero_times_the_logits,
        zero_of_its_own,
    ],
    "causal_lm_loss": [shifted_labels, rolled_ids, token_after_token, weighted_one_hot],
}
VARIANTS = {
    "mask_tokens": {
        "changes_its_input": [shares_the_storage, writes_into_the_mask],
        "labels_after_corruption": [one_clone_for_both],
        "labels_everywhere": [labels_but_for_specials],
        "no_loss_on_the_kept": [labels_where_changed, labels_on_masks_and_random],
        "masks_special_tokens": [leaves_out_only_the_first, labels_specials],
        "writes_whole_rows": [one_minus_the_mask],
        "always_masks": [masks_in_place_of_all],
        "one_draw_for_both": [same_draw_again],
        "draws_fates_independently": [
            overlapping(("kept", "replaced"), BERT),  # 81/10/9
            overlapping(("masked", "replaced"), BERT),  # 72/10/18
            overlapping(("masked", "replaced", "kept"), BERT),  # 65/9/26
            overlapping(("masked", "replaced"), BERNOULLI),  # 40/50/10
        ],
        "takes_shares_of_the_rest": [overlapping(("replaced", "masked"), BERT)],  # 80/2/18
        "keeps_none": [masks_or_replaces],
        "random_ids_outside": [words_of_bert, words_one_too_many],
        "ignores_the_generator": [
            only_words_without_generator,
            generator_of_its_own,
            seeds_from_the_clock,
        ],
    },
    "mlm_loss": {
        "counts_ignored_labels": [
            does_not_ignore,
            indexes_from_the_end,
            gathers_minus_hundred,
            takes_zero_for_ignored,
            sums_all_divides_by_chosen,
            encodes_one_hot,
        ],
        "averages_over_all_positions": [mean_of_unreduced],
        "averages_rows_first": [mean_of_row_means],
        "sums_the_losses": [sum_of_cross_entropies],
        "nan_without_chosen_tokens": [mean_of_cross_entropies, hides_the_value_not_the_gradient],
        "constant_without_chosen_tokens": [plain_zero],
        "log_of_softmax": [
            log_of_softmax_and_a_little,
            sums_exponentials,
            log_of_softmax_in_float64,
            log_of_softmax_and_very_little,
        ],
    },
    "causal_lm_loss": {
        "no_shift": [own_tokens],
        "shifts_the_wrong_way": [previous_tokens, rolls_the_wrong_way],
        "asks_the_last_for_the_first": [rolls_and_keeps_the_last],
        "indexes_with_integers": [indexes_with_the_targets_mask],
        "counts_padding": [shifts_and_forgets_the_mask],
        "counts_first_padding": [mask_of_the_contexts],
        "predicts_from_padding": [mask_of_the_targets],
        "averages_over_padding": [zeroes_padding_and_takes_the_mean],
        "averages_rows_before_the_batch": [mean_over_rows],
        "nan_without_pairs": [mean_of_pairs, divides_by_the_sum_of_the_mask],
        "constant_without_pairs": [gives_up_early],
        "log_of_softmax_of_next": [log_of_softmax_times_mask],
    },
}
