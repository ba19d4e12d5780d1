# %% [markdown]
# # Solutions to lesson 00
#
# Cells to be run below the lesson's own: they use its names.

# %%
solved = {
    1: 10 * 12.5,
    2: math.ceil(3.99 * 12.5),
    3: 25 * 1_920,
    4: 15_488_064,
    5: 256_000 / 175,
}
for number, mine in solved.items():
    compute(number, mine, ANSWERS[number])

# %%
predict(6, "the same", "the same" if np.ptp(risen) < 0.1 else "loud")  # log(2 x) = log 2 + log x


# %%
def my_mel(hertz):
    """Hertz -> mel."""
    return 3 * hertz / 200 if hertz < 1000 else 15 + 27 * math.log(hertz / 1000) / math.log(6.4)


implement(7, lambda: np.allclose([my_mel(hertz) for hertz in (0, 500, 1000, 6400)], [0, 7.5, 15, 42]))
