"""Watch a picture come into being, and stop when it is good enough.

python examples/follow_events.py [BASE]
"""

import sys

import torch

import sfumato


@torch.no_grad()
def main(base: str = "primer") -> None:
    """Run the example."""
    pipeline = sfumato.load(base)
    request = sfumato.GenerateRequest(prompt="a rocket", base=base, steps=12)
    for event in sfumato.run(request, pipeline=pipeline):
        match event:
            case sfumato.Step():
                preview = pipeline.bundle.autoencoder.to_images(event.x_0).clamp(-1, 1)  # as far as is known by now
                print(f"step {event.step + 1} of {event.steps}, a preview of {tuple(preview.shape[2:])}")
            case sfumato.Artifact():
                print("written:", event.path)

    half_way = sfumato.run(request, pipeline=pipeline)
    for event in half_way:
        if isinstance(event, sfumato.Step) and event.step == 5:
            half_way.close()  # nothing is written
            break


if __name__ == "__main__":
    main(*sys.argv[1:2])
