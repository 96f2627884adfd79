"""A small text, and a base that is trained once."""

import random

import pytest

import ropewalk


def story(lines: int = 300) -> str:
    words = random.Random(5)
    return "".join(f"Line {words.randrange(1000)} of the little story number {i}.\n" for i in range(lines))


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "story.txt"
    path.write_text(story())
    return path


@pytest.fixture(scope="session")
def base(tmp_path_factory, text):
    """A model of two small layers with a window of 32 tokens."""
    out = tmp_path_factory.mktemp("base") / "base"
    shape = dict(hidden=32, layers=2, heads=2, window=32, batch=4)
    ropewalk.Trainer(data=text, out=out, steps=40, lr=1e-2, device="cpu", progress=False, **shape).run()
    return out


@pytest.fixture
def model(base):
    with ropewalk.Model.load(base, device="cpu") as loaded:
        yield loaded
