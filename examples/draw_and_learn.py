"""Draw, learn a subject, draw it somewhere else.

python examples/draw_and_learn.py PHOTOS [BASE] [STEPS]
"""

import sys

import sfumato


def main(photos: str, base: str = "primer", steps: int | None = None) -> None:
    """Run the example."""
    pipeline = sfumato.load(base)

    pictures = sfumato.generate("a green apple on a blue background", base=pipeline, count=2, seed=7)
    pictures[0].save("apple.png")  # with its recipe inside

    concept = sfumato.learn(photos, placeholder="<fox>", class_noun="fox", base=pipeline, steps=steps)
    fox = sfumato.generate("a <fox> on a green background", base=pipeline, concepts=[concept])[0]
    fox.save("fox.png")


if __name__ == "__main__":
    main(sys.argv[1], *sys.argv[2:3], *map(int, sys.argv[3:4]))
