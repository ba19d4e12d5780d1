# %% [markdown]
# # Solutions to lesson 01
#
# Cells to be run below the lesson's own: they use its names.

# %%
solved = {
    1: 75 * 2 * 10,
    2: 60 * (50 - 12.5),
    3: 1_500 * 1_024 * 64,
    4: 512,
    5: 349,
}
for number, mine in solved.items():
    compute(number, mine, ANSWERS[number])

# %%
predict(6, "most", "few" if changed < 1 / 3 else "most" if changed > 2 / 3 else "some")  # nobody told it to forget


# %%
def my_perplexity(codes):
    """Codes (T,) -> a number from 1 (always the same) to the size of the codebook (all equally often)."""
    share = torch.bincount(codes) / len(codes)
    return float(torch.special.entr(share).sum().exp())


implement(7, lambda: all(abs(my_perplexity(torch.tensor(c)) - p) < 1e-3 for c, p in [([3, 3], 1), ([0, 1, 1], 1.8899)]))
