"""Masked language modelling: the corruption, and the losses against slow loops and transformers."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from course_lib.mlm import IGNORED, causal_lm_loss, mask_tokens, mlm_loss

PAD, CLS, SEP, MASK, VOCABULARY = 0, 1, 2, 3, 200


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_text(rows=4, columns=12, dtype=torch.long, seed=0):
    """Ids with [CLS], [SEP] and padding, and their special_tokens_mask."""
    ids = torch.randint(4, VOCABULARY, (rows, columns), generator=seeded(seed)).to(dtype)
    ids[:, 0] = CLS
    ids[:, -3] = SEP
    ids[:, -2:] = PAD
    return ids, (ids < 4).long()


def masking(ids, special, p=0.15, seed=0):
    return mask_tokens(ids, special, MASK, VOCABULARY, p, seeded(seed))


# mask_tokens


def test_masking_is_the_papers_procedure_token_by_token():
    """Devlin et al. 2019, section 3.1, with the same draws."""
    ids, special = make_text(6, 40)
    inputs, labels = masking(ids, special, p=0.4, seed=5)
    generator = seeded(5)
    chance, fate = (torch.rand(ids.shape, generator=generator).double() for _ in range(2))
    words = torch.randint(VOCABULARY, ids.shape, generator=generator)
    for b in range(ids.shape[0]):
        for t in range(ids.shape[1]):
            token, label = int(ids[b, t]), -100
            if not special[b, t] and chance[b, t] < 0.4:
                label = token
                if fate[b, t] < 0.8:
                    token = MASK
                elif fate[b, t] < 0.9:
                    token = int(words[b, t])
            assert (int(inputs[b, t]), int(labels[b, t])) == (token, label)


def shares(inputs, labels, ids, special):
    """Of the ordinary tokens: chosen; of the chosen: [MASK], another word, the same."""
    chosen = labels != IGNORED
    count = int(chosen.sum())
    masked = int((chosen & (inputs == MASK)).sum()) / count
    kept = int((chosen & (inputs == ids)).sum()) / count
    return count / int((special == 0).sum()), masked, 1 - masked - kept, kept


@pytest.mark.parametrize("p", [0.15, 0.5])
def test_shares_are_those_of_the_paper_and_of_transformers(p):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

    words = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(VOCABULARY - 4))]
    model = WordLevel({word: i for i, word in enumerate(words)}, unk_token="[PAD]")
    names = {"pad_token": "[PAD]", "mask_token": "[MASK]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), **names)
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=p, seed=1)
    collator.create_rng()

    ids, special = make_text(4000, 100)
    ours = shares(*masking(ids, special, p), ids, special)
    theirs = shares(*collator.torch_mask_tokens(ids.clone(), special), ids, special)
    chance = 1 / VOCABULARY  # that a random word is [MASK], or the token itself
    wanted = (p, 0.8 + 0.1 * chance, 0.1 * (1 - 2 * chance), 0.1 + 0.1 * chance)
    ordinary = int((special == 0).sum())
    for mine, other, share in zip(ours, theirs, wanted, strict=True):
        count = ordinary if share == p else p * ordinary
        deviation = math.sqrt(share * (1 - share) / count)
        assert abs(mine - share) < 5 * deviation
        assert abs(mine - other) < 5 * math.sqrt(2) * deviation


def test_random_words_are_uniform_over_the_whole_vocabulary():
    ids = torch.full((1000, 200), 7)
    inputs, _ = mask_tokens(ids, torch.zeros_like(ids), 3, 10, 1.0, seeded())
    counts = Counter(inputs.flatten().tolist())
    others = [counts[word] for word in range(10) if word not in (3, 7)]  # 2 000 on average
    assert sum((n - 2000) ** 2 / 2000 for n in others) < 35  # chi-square of 8 terms: p < 3e-5
    assert set(counts) == set(range(10))


def test_special_tokens_and_unchosen_positions_stay_and_have_no_label():
    ids, special = make_text(50, 30)
    inputs, labels = masking(ids, special, p=0.5)
    assert (labels[special == 1] == IGNORED).all()
    assert torch.equal(inputs[labels == IGNORED], ids[labels == IGNORED])
    assert torch.equal(labels[labels != IGNORED], ids[labels != IGNORED])


def test_every_token_is_chosen_at_one_and_none_at_zero():
    ids, special = make_text()
    assert torch.equal(masking(ids, special, p=1.0)[1] != IGNORED, special == 0)
    inputs, labels = masking(ids, special, p=0.0)
    assert torch.equal(inputs, ids)
    assert (labels == IGNORED).all()


def test_masking_leaves_its_arguments_and_the_global_generator_alone():
    ids, special = make_text()
    before, state = (ids.clone(), special.clone()), torch.get_rng_state()
    first = masking(ids, special, p=0.5)
    assert torch.equal(ids, before[0]) and torch.equal(special, before[1])
    assert torch.equal(torch.get_rng_state(), state)
    again = masking(ids, special, p=0.5)
    other = masking(ids, special, p=0.5, seed=1)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])


def test_without_a_generator_the_global_one_decides():
    ids, special = make_text(20, 30)
    made = []
    with torch.random.fork_rng():
        for _ in range(2):
            torch.manual_seed(3)
            made.append(mask_tokens(ids, special, MASK, VOCABULARY))
    assert torch.equal(made[0][0], made[1][0]) and torch.equal(made[0][1], made[1][1])


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_masking_keeps_the_integer_type_and_takes_either_kind_of_mask(dtype):
    ids, special = make_text(dtype=dtype)
    inputs, labels = masking(ids, special, p=0.5)
    assert inputs.dtype == labels.dtype == dtype
    boolean = masking(ids, special.bool(), p=0.5)
    assert torch.equal(inputs, boolean[0]) and torch.equal(labels, boolean[1])


def test_masking_works_on_transposed_and_empty_tensors():
    ids, special = make_text(6, 10)
    inputs, labels = masking(ids.T, special.T, p=0.5)
    same = masking(ids.T.contiguous(), special.T.contiguous(), p=0.5)
    assert torch.equal(inputs, same[0]) and torch.equal(labels, same[1])
    assert masking(ids[:, :0], special[:, :0])[0].shape == (6, 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ids": torch.ones(3).long()}, r"\(3,\)"),
        ({"special_tokens_mask": torch.zeros(2, 4)}, r"\(2, 3\) and \(2, 4\)"),
        ({"ids": torch.ones(2, 3)}, "float32"),
        ({"ids": torch.ones(2, 3, dtype=torch.uint8)}, "uint8"),
        ({"p": 1.5}, "1.5"),
        ({"p": -0.1}, "-0.1"),
        ({"p": math.nan}, "nan"),
        ({"mask_id": 9}, r"\[0, 9\), got 9"),
        ({"mask_id": -1}, "got -1"),
    ],
)
def test_masking_refuses_bad_arguments_with_a_sentence(change, words):
    given_ = {
        "ids": torch.ones(2, 3).long(),
        "special_tokens_mask": torch.zeros(2, 3),
        "mask_id": 3,
        "vocab_size": 9,
    }
    with pytest.raises(ValueError, match=words):
        mask_tokens(**(given_ | change))


# The losses


def slow_loss(logits, targets, counted):
    """Mean of -log softmax over the counted positions, term by term in float64."""
    terms = []
    for place in counted.nonzero().tolist():
        row = [float(x) for x in logits[tuple(place)]]
        largest = max(row)
        partition = math.fsum(math.exp(x - largest) for x in row)
        terms.append(largest + math.log(partition) - row[int(targets[tuple(place)])])
    return math.fsum(terms) / len(terms) if terms else 0.0


def shift(logits, ids, mask):
    counted = mask[:, 1:].bool() & mask[:, :-1].bool()
    return logits[:, :-1], ids[:, 1:], counted


def make_logits(*shape, spread=2.0, dtype=torch.float64, seed=0):
    return (spread * torch.randn(shape, generator=seeded(seed), dtype=torch.float64)).to(dtype)


def make_labels(*shape, words, seed=1, share=0.4):
    labels = torch.randint(words, shape, generator=seeded(seed))
    return labels.masked_fill(torch.rand(shape, generator=seeded(seed + 1)) > share, IGNORED)


MASKS = {
    "full": torch.ones(3, 6).long(),
    "right": torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]]),
    "left": torch.tensor([[0, 0, 0, 0, 0, 1], [0, 0, 1, 1, 1, 1], [1] * 6]),
    "holes": torch.tensor([[1, 1, 0, 1, 1, 1], [0, 1, 0, 1, 0, 1], [0] * 6]),
}
# float16 and bfloat16 logits are exact in float32, where both losses are added up.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-5, torch.float16: 1e-5}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("spread", [2.0, 300.0])
def test_mlm_loss_is_the_formula(dtype, spread):
    logits = make_logits(3, 7, 11, spread=spread, dtype=dtype)
    labels = make_labels(3, 7, words=11)
    loss = mlm_loss(logits, labels)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert loss.shape == ()
    wanted = slow_loss(logits, labels, labels != IGNORED)
    assert float(loss) == pytest.approx(wanted, rel=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("padding", MASKS)
@pytest.mark.parametrize("spread", [2.0, 300.0])
def test_causal_loss_is_the_formula(dtype, padding, spread):
    logits = make_logits(3, 6, 9, spread=spread, dtype=dtype)
    ids = torch.randint(9, (3, 6), generator=seeded(4))
    wanted = slow_loss(*shift(logits, ids, MASKS[padding]))
    loss = causal_lm_loss(logits, ids, MASKS[padding])
    assert float(loss) == pytest.approx(wanted, rel=TOLERANCE[dtype])


def test_mlm_loss_is_that_of_transformers_bert():
    from transformers import BertConfig, BertForMaskedLM

    sizes = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertForMaskedLM(BertConfig(**sizes, intermediate_size=16)).eval()
    ids = torch.randint(30, (3, 8), generator=seeded())
    labels = make_labels(3, 8, words=30)
    out = model(input_ids=ids, labels=labels)
    torch.testing.assert_close(mlm_loss(out.logits, labels), out.loss)


def test_causal_loss_is_that_of_transformers_for_padding_on_the_right():
    from transformers.loss.loss_utils import ForCausalLMLoss

    logits = make_logits(3, 6, 9, dtype=torch.float32)
    ids = torch.randint(9, (3, 6), generator=seeded(4))
    for padding in ("full", "right"):
        labels = ids.masked_fill(MASKS[padding] == 0, IGNORED)
        theirs = ForCausalLMLoss(logits, labels, vocab_size=9)
        torch.testing.assert_close(causal_lm_loss(logits, ids, MASKS[padding]), theirs)


def test_gradient_is_softmax_minus_one_hot_over_the_number_of_terms():
    logits = make_logits(2, 5, 7).requires_grad_()
    labels = make_labels(2, 5, words=7)
    chosen = labels != IGNORED
    mlm_loss(logits, labels).backward()
    one_hot = F.one_hot(labels.clamp(min=0), 7)
    wanted = (logits.detach().softmax(-1) - one_hot) * chosen.unsqueeze(-1) / chosen.sum()
    torch.testing.assert_close(logits.grad, wanted)


def test_gradients_agree_with_finite_differences():
    labels = make_labels(2, 4, words=5)
    ids = torch.randint(5, (3, 6), generator=seeded())
    wide = make_logits(2, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: mlm_loss(x, labels), wide)
    wide = make_logits(3, 6, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: causal_lm_loss(x, ids, MASKS["left"]), wide)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_the_loss_of_nothing_is_zero_with_a_gradient_of_zero(dtype):
    shape = (2, 4, 5)
    nothing = torch.full(shape[:2], IGNORED)
    ids = torch.ones(shape[:2]).long()
    lone = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 1]])
    for loss_of in (
        lambda x: mlm_loss(x, nothing),
        lambda x: causal_lm_loss(x, ids, lone),
        lambda x: causal_lm_loss(x[:, :1], ids[:, :1], ids[:, :1]),
        lambda x: mlm_loss(x[:0], nothing[:0]),
    ):
        logits = make_logits(*shape, spread=300.0, dtype=dtype).requires_grad_()
        loss = loss_of(logits)
        loss.backward()
        assert loss.item() == 0.0
        assert logits.grad.dtype == dtype
        assert not logits.grad.any()


def test_losses_leave_their_arguments_alone_and_take_any_layout():
    logits = make_logits(6, 3, 9).transpose(0, 1)
    labels = make_labels(6, 3, words=9).T
    ids, mask = torch.randint(9, (6, 3), generator=seeded()).T, MASKS["right"].bool()
    before = [tensor.clone() for tensor in (logits, labels, ids, mask)]
    losses = mlm_loss(logits, labels), causal_lm_loss(logits, ids, mask)
    same = [tensor.contiguous() for tensor in (logits, labels, ids, mask)]
    torch.testing.assert_close(losses[0], mlm_loss(same[0], same[1]))
    torch.testing.assert_close(losses[1], causal_lm_loss(same[0], same[2], same[3].long()))
    for tensor, old in zip((logits, labels, ids, mask), before, strict=True):
        assert torch.equal(tensor, old)


def test_ids_at_padding_do_not_matter():
    logits = make_logits(3, 6, 9)
    ids = torch.randint(9, (3, 6), generator=seeded())
    elsewhere = ids.masked_fill(MASKS["left"] == 0, -1)
    losses = [causal_lm_loss(logits, tokens, MASKS["left"]) for tokens in (ids, elsewhere)]
    assert torch.equal(*losses)


shapes = st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 8))


@settings(max_examples=60, deadline=None)
@given(shape=shapes, seed=st.integers(0, 10**6), shift_by=st.floats(-100, 100))
def test_losses_ignore_a_constant_and_a_flattening(shape, seed, shift_by):
    logits, labels = (
        make_logits(*shape, seed=seed),
        make_labels(*shape[:2], words=shape[2], seed=seed),
    )
    loss = mlm_loss(logits, labels)
    torch.testing.assert_close(mlm_loss(logits + shift_by, labels), loss, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(mlm_loss(logits.flatten(0, 1), labels.flatten()), loss)
    # What is predicted from the token before is what is masked, one place earlier.
    mask = (labels != IGNORED).long()
    ids = labels.clamp(min=0)
    predicted = shift(logits, ids, mask)
    moved = predicted[1].masked_fill(~predicted[2], IGNORED)
    torch.testing.assert_close(causal_lm_loss(logits, ids, mask), mlm_loss(predicted[0], moved))


def test_a_uniform_guess_costs_log_of_the_vocabulary():
    assert float(mlm_loss(torch.zeros(1, 4, 50), torch.arange(4)[None])) == pytest.approx(
        math.log(50), rel=1e-6
    )


@pytest.mark.parametrize(
    ("logits", "labels", "words"),
    [
        (torch.zeros(2, 3, 5), torch.zeros(2, 4).long(), r"\(2, 3, 5\) and \(2, 4\)"),
        (torch.zeros(2, 3, 5), torch.full((2, 3), 5), r"\[0, 5\)"),
        (torch.zeros(2, 3, 5), torch.full((2, 3), -1), r"-100 or in \[0, 5\)"),
        (torch.tensor(0.0), torch.tensor(0), r"\(\.\.\., V\)"),
    ],
)
def test_mlm_loss_refuses_bad_arguments_with_a_sentence(logits, labels, words):
    with pytest.raises(ValueError, match=words):
        mlm_loss(logits, labels)


@pytest.mark.parametrize(
    ("logits", "ids", "mask", "words"),
    [
        (torch.zeros(2, 5), torch.zeros(2).long(), torch.ones(2), r"\(2, 5\), \(2,\) and \(2,\)"),
        (torch.zeros(2, 3, 5), torch.zeros(2, 4).long(), torch.ones(2, 4), r"\(2, 4\)"),
        (torch.zeros(2, 3, 5), torch.zeros(2, 3).long(), torch.ones(2, 4), r"and \(2, 4\)"),
        (torch.zeros(2, 3, 5), torch.full((2, 3), 5), torch.ones(2, 3), r"\[0, 5\)"),
    ],
)
def test_causal_loss_refuses_bad_arguments_with_a_sentence(logits, ids, mask, words):
    with pytest.raises(ValueError, match=words):
        causal_lm_loss(logits, ids, mask)
