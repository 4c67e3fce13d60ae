"""Hidden widths from outputs: how often right, from how many inputs, how far off the span, and whose an answer is.

    python benchmarks/outputs.py [first seed] [seeds] [identity] [classifier] [completions] [widths] [largest]

Random language models (two tanh layers, LayerNorm, a linear layer); 1000 classes behind a small convolutional network.
The last bits of every answer are flipped at random, as another processor would.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import unveil as uv

SIZES = ((1000, 64), (2000, 128), (8000, 512))


def log_softmax(y):
    y = y - y.max(axis=1, keepdims=True)
    return y - np.log(np.exp(y).sum(axis=1, keepdims=True))


def bfloat16(y):
    bits = y.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)


FORMS = {
    "float64": lambda y: y,
    "float32": lambda y: y.astype(np.float32),
    "float32 log-probabilities": lambda y: log_softmax(y).astype(np.float32),
    "float32 probabilities": lambda y: np.exp(log_softmax(y)).astype(np.float32),
    "log-probabilities, 4 decimals": lambda y: np.round(log_softmax(y), 4),
    "float16": lambda y: y.astype(np.float16).astype(np.float64),
    "bfloat16": bfloat16,
    "2 decimals": lambda y: np.round(y, 2),
}


class LanguageModel:
    """Logits of a random model; `columns` is what is to be found, `changed` a copy after one small training step."""

    def __init__(self, vocabulary: int, width: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.first = rng.standard_normal((2 * width, 32)) / np.sqrt(32)
        self.second = rng.standard_normal((width, 2 * width)) / np.sqrt(2 * width)
        self.last = 2 * rng.standard_normal((vocabulary, width)) / np.sqrt(width)
        self.gain, self.bias = 1 + 0.2 * rng.standard_normal(width), 0.3 * rng.standard_normal(vocabulary)
        self.columns = self.last * self.gain @ (np.eye(width) - 1 / width)

    def hidden(self, x):
        h = np.tanh(2 * x @ self.first.T) @ self.second.T
        h = h - h.mean(axis=1, keepdims=True)
        return self.gain * h / np.sqrt(np.mean(h**2, axis=1, keepdims=True) + 1e-5)

    def __call__(self, x):
        return self.hidden(x) @ self.last.T + self.bias

    def changed(self, x, target, rate=1e-3):
        """The model after one step of gradient descent on the cross-entropy of a batch, in the last layer alone."""
        h = self.hidden(x)
        p = np.exp(log_softmax(self(x)))
        p[np.arange(len(x)), target] -= 1
        other = LanguageModel.__new__(LanguageModel)
        vars(other).update(vars(self))
        other.last = self.last - rate * p.T @ h / len(x)
        return other


def widths(first: int, seeds: int, sizes=SIZES) -> None:
    print("| outputs / width | answers | right | inputs - width: median, most | sine: median, most | CPU s |")
    print("|---|---|---|---|---|---|")
    for vocabulary, width in sizes:
        for name in FORMS if vocabulary < 8000 else ("float32", "bfloat16", "2 decimals"):
            right, asked, off, cpu = 0, [], [], time.process_time()
            for seed in range(first, first + seeds):
                model, rng = LanguageModel(vocabulary, width, 7000 + seed), np.random.default_rng(seed)

                def answer(x, model=model, rng=rng, name=name):
                    y = model(x)
                    return FORMS[name](np.nextafter(y, y + rng.choice([-1, 1], size=y.shape)))

                oracle = uv.as_oracle(answer, 32, noisy=True)
                span = uv.output_span(oracle, rng=np.random.default_rng(100 + seed))
                good = span.outcome is uv.Outcome.complete and span.rank == width - 1
                right += good
                asked.append(span.queries - width)
                off.append(span.distance(model.columns) if good else 1.0)
            cpu = (time.process_time() - cpu) / seeds
            print(
                f"| {vocabulary} / {width} | {name} | {right} of {seeds} | {np.median(asked):.0f}, {max(asked)} | "
                f"{np.median(off):.1e}, {max(off):.1e} | {cpu:.1f} |",
                flush=True,
            )


def largest(first: int, seeds: int) -> None:
    widths(first, seeds, SIZES[-1:])


def classifier(first: int, seeds: int) -> None:
    """1000 classes behind 512 averaged feature maps of a convolutional network, asked about 530 images in float32."""
    for name, normalised, texture in (
        ("normalised twice", True, 0.5),
        ("texture", False, 0.5),
        ("smooth", False, 0.05),
    ):
        right = complete = wrong = 0
        asked: list[int] = []
        for seed in range(first, first + seeds):
            alive, shown, span = _classified(seed, normalised, texture)
            good = shown <= span.rank <= alive and span.outcome in (uv.Outcome.complete, uv.Outcome.approximate)
            right, complete = right + good, complete + (good and span.outcome is uv.Outcome.complete)
            wrong += span.outcome is uv.Outcome.complete and not good
            asked.append(span.queries)
            print(
                f"  {seed}: {alive} of 512 in the images, {shown} shown, rank {span.rank}, {span.queries} images, "
                f"{span.outcome.name}",
                flush=True,
            )
        print(
            f"1000 classes, {name}: rank right {right} of {seeds}, called complete {complete}, complete but "
            f"wrong {wrong}, from {np.median(asked):.0f} images, {max(asked)} at most",
            flush=True,
        )


def _classified(seed: int, normalised: bool, texture: float):
    """Dimension of the images' feature maps, directions of it that answers show above all their rounding, and the span.

    Feature maps that rest in all images cannot be seen, two that show in the same single image count as one, and those
    weaker there than the rounding of the logits may be seen or not.
    """
    import torch

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    body = torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 3, stride=2), torch.nn.BatchNorm2d(32) if normalised else torch.nn.Identity(),
        torch.nn.ReLU(), torch.nn.Conv2d(32, 512, 3, stride=2), torch.nn.BatchNorm2d(512), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
    )  # fmt: skip
    last = torch.nn.Linear(512, 1000)
    x = images(530, rng, texture)
    with torch.no_grad():
        body(torch.tensor(images(64, rng, texture)))  # the batch normalisation takes its statistics
        h = body.eval()(torch.tensor(x))
        y, h = last(h).numpy().astype(np.float64), h.numpy().astype(np.float64)
        exact = h @ last.weight.numpy().astype(np.float64).T + last.bias.numpy().astype(np.float64)
    noise = np.linalg.norm(y - exact - (y - exact).mean(axis=0), 2)
    shown = int((np.linalg.svd(exact - exact.mean(axis=0), compute_uv=False) > noise).sum())
    oracle = uv.as_oracle(torch.nn.Sequential(body, last).eval(), (3, 32, 32), within=(0, 1))
    span = uv.output_span(oracle, x.reshape(530, -1).astype(np.float64), rng=rng)
    return int(np.linalg.matrix_rank(h - h.mean(axis=0))), shown, span


def images(count, rng, texture=0.05):
    """Smooth random colour fields with noise of deviation `texture`, in (0, 1)."""
    from scipy import ndimage

    fields = ndimage.zoom(rng.standard_normal((count, 3, 8, 8)), (1, 1, 4, 4), order=3)
    return np.clip(0.5 + 0.25 * fields + texture * rng.standard_normal(fields.shape), 0, 1).astype(np.float32)


def completions(first: int, seeds: int) -> None:
    """Log-ratios as a top-5 endpoint with logit bias tells them: 85 tokens of 1000, width 64, 21 requests a prompt."""
    tokens, top = 85, 5
    each = -(-(tokens - 1) // (top - 1))
    for decimals in (2, 4, 7):
        right, wrong, sent = 0, 0, []
        for seed in range(first, first + seeds):
            model = LanguageModel(1000, 64, 7000 + seed)

            def told(x, model=model, decimals=decimals):
                """Each group of four beside the first token, lifted above all others by a bias."""
                y, groups = model(x)[:, :tokens].astype(np.float32), []
                for start in range(1, tokens, top - 1):
                    lifted = np.concatenate([y[:, :1], y[:, start : start + top - 1]], axis=1) + np.float32(100)
                    logs = np.round(log_softmax(lifted.astype(np.float64)), decimals)
                    groups.append(np.round(logs[:, 1:] - logs[:, :1], min(decimals, 5)))
                return np.concatenate(groups, axis=1)

            oracle = uv.as_oracle(told, 32)
            span = uv.output_span(oracle, rng=np.random.default_rng(seed))
            good = span.outcome is uv.Outcome.complete and span.rank == 63
            right, wrong = right + good, wrong + (span.outcome is uv.Outcome.complete and not good)
            sent.append(each * span.queries)
        print(
            f"top-5 with bias, {decimals} decimals: right {right} of {seeds}, complete but wrong {wrong}, "
            f"{np.median(sent):.0f} requests, {max(sent)} at most",
            flush=True,
        )


def identity(first: int, seeds: int) -> None:
    """False alarms, and answers of a changed and of another model taken for the model's own."""
    print("| answers | false alarms | changed by one step, told apart | another model, told apart |")
    print("|---|---|---|---|")
    for name in FORMS:
        own, step, other, count = 0, 0, 0, 0
        for seed in range(first, first + seeds):
            rng = np.random.default_rng(seed)
            model, foreign = LanguageModel(1000, 64, 7000 + seed), LanguageModel(1000, 64, 9000 + seed)
            oracle = uv.as_oracle(lambda x, model=model, name=name: FORMS[name](model(x)), 32)
            span = uv.output_span(oracle, rng=rng)
            x = rng.standard_normal((1000, 32))
            after = model.changed(x[:64], rng.integers(1000, size=64), rate=1.0)
            own += int((~span.contains(oracle(x))).sum())
            step += int((~span.contains(oracle_form(oracle, name, after(x)))).sum())
            other += int((~span.contains(oracle_form(oracle, name, foreign(x)))).sum())
            count += len(x)
        print(f"| {name} | {own} of {count} | {step / count:.1%} | {other / count:.1%} |", flush=True)


def oracle_form(oracle, name, y):
    """Answers as the oracle would give them."""
    y = FORMS[name](y)
    if oracle.reference is None:
        return y
    logs = np.log(y)
    return np.delete(logs, oracle.reference, axis=1) - logs[:, [oracle.reference]]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", nargs="?", type=int, default=0, help="the first seed")
    parser.add_argument("seeds", nargs="?", type=int, default=10, help="how many")
    parser.add_argument("case", nargs="*", help="identity, classifier and widths by default")
    told = parser.parse_args()
    cases = {each.__name__: each for each in (identity, classifier, widths, largest, completions)}
    if strange := set(told.case) - set(cases):
        parser.error(f"no such case: {', '.join(sorted(strange))}; there are {', '.join(cases)}")
    for name in told.case or ("identity", "classifier", "widths"):
        cases[name](told.first, told.seeds)
