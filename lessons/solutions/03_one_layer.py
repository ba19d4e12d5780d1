# %% [markdown]
# # Solutions to lesson 03
#
# Cells to be run below the lesson's own: they use its names.

# %%
solved = {
    1: 2 * 576 * 576 + 2 * 576 * 3 * 64,
    2: 2 * 3 * 64,
    3: 7 * 100_000 ** (-16 / 32),
    4: 3 * 576 * 1536,
    5: 100 * 101 / 2,
}
for number, mine in solved.items():
    compute(number, mine, ANSWERS[number])

# %%
predict(6, "no, yes", ", ".join(outcome))  # without places, attention hears a bag of words


# %%
def my_shared(k, times):
    """k (G, L, E) -> (G * times, L, E)."""
    return torch.stack([group for group in k for _ in range(times)])


implement(7, lambda: torch.equal(my_shared(keys, 3), keys[torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])]))
