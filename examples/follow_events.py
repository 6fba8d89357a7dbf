"""Watch a picture come into being, and stop when it is good enough.

python examples/follow_events.py [BASE]
"""

import sys

import sfumato


def main(base: str = "primer") -> None:
    """Run the example."""
    events = sfumato.run(sfumato.GenerateRequest(prompt="a rocket", base=base, steps=12))
    for event in events:
        match event:
            case sfumato.Step():
                print(f"step {event.step + 1} of {event.steps}, mean of x_0 {float(event.x_0.mean()):+.3f}")
            case sfumato.Artifact():
                print("written:", event.path)

    half_way = sfumato.run(sfumato.GenerateRequest(prompt="a rocket", base=base, steps=12))
    for event in half_way:
        if isinstance(event, sfumato.Step) and event.step == 5:
            half_way.close()  # nothing is written
            break


if __name__ == "__main__":
    main(*sys.argv[1:2])
