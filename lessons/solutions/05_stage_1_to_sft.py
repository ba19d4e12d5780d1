# %% [markdown]
# # Solutions to lesson 05
#
# Cells to be run below the lesson's own: they use its names.

# %%
solved = {
    1: (10 * 1.0 + 30 * 2.0) / 40,
    2: 190 * 8 * 150,
    3: 0.1,
    4: 500 / 100,
    5: 1_000_000 / 12.5 / 3600,
}
for number, mine in solved.items():
    compute(number, mine, ANSWERS[number])

# %%
predict(6, "higher", "higher" if rates[1] > rates[0] else "lower")  # the cosine began later, and is less far down


# %%
def my_loss(parts):
    """Tensors (4,), as `naive_sums` gives them -> the loss of the step."""
    text, speech, texts, codes = torch.stack(parts).sum(0)
    return text / texts + speech / codes


implement(7, lambda: abs(float(my_loss(parts)) - 3.75) < 1e-6)
