# %% [markdown]
# # Solutions to lesson 09
#
# Cells to be run below the lesson's own: they use its names.

# %%
solved = {
    1: (0.75 + 1.959964**2 / 80 - 1.959964 * (0.75 * 0.25 / 40 + 1.959964**2 / 6400) ** 0.5) / (1 + 1.959964**2 / 40),
    2: 1.959964**2 / (20 + 1.959964**2),
    3: 3 / 12,
    4: 30 / (3 * 10 / 9),  # the design effect: three alike, and one fact fewer that is free to vary
    5: (18 / 20 - 0.5) / (1 - 0.5),
}
for number, mine in solved.items():
    compute(number, mine, ANSWERS[number])

# %%
predict(6, "no", "yes" if twice[2] - twice[1] < 0.99 * (once[2] - once[1]) else "no")  # the same ten facts


# %%
def my_needed(share, half):
    """A whole number of questions."""
    n = 1
    while (wilson(share * n, n)[1] - wilson(share * n, n)[0]) / 2 > half:
        n += 1
    return n


implement(7, lambda: [my_needed(0.5, 0.1), my_needed(0.1, 0.05)] == [93, 141])
