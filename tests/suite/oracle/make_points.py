"""Makes points.txt: losses, lse and gradients that the scalar reference is held to.

    python3 tests/suite/oracle/make_points.py > tests/suite/oracle/points.txt      # needs mpmath; half a minute

Every formula is taken as it stands, ln(sum exp) - x_t with all that cancels in it, with so many digits that 60 are left.
Gradients are central differences of the loss: no derivative was worked out by hand.
"""

import random
import struct

from mpmath import exp, inf, isinf, log, log1p, mp, mpf, nstr

mp.dps = 700
STEP = mpf(10) ** -160  # the difference is right to 1e-320, and rounding to 1e-540
DIGITS = 40

EPSILONS = [0.1, 0.3, 1.0]
GAMMAS = [0.5, 2.0, 5.0]
Z_LOSSES = [0.0001, 0.25]


def f32(x):
    """The nearest f32."""
    return struct.unpack("f", struct.pack("f", x))[0]


class Options:
    def __init__(self, weight=None, epsilon=0.0, smoothing="all", gamma=0.0, z=0.0):
        self.weight, self.epsilon, self.smoothing, self.gamma, self.z = weight, epsilon, smoothing, gamma, z

    def of_class(self, c):
        return mpf(1) if self.weight is None else mpf(self.weight[c])

    def among(self, x, target):
        """The classes that label smoothing spreads over."""
        is_among = {"all": lambda c: True, "others": lambda c: c != target, "live": lambda c: not isinf(x[c])}
        return [c for c in range(len(x)) if is_among[self.smoothing](c)]


def lse_of(x):
    return log(sum(exp(v) for v in x))


def term(weight, x_c, lse):
    """weight (-ln p_c), which is 0 where the weight is."""
    return mpf(0) if weight == 0 else weight * (lse - x_c)


def loss_of(x, target, options):
    """The loss of a row, its z-loss included. The target is a class, or a list of probabilities."""
    lse = lse_of(x)
    epsilon = mpf(options.epsilon)
    if isinstance(target, list):
        loss = sum(
            term(options.of_class(c) * ((1 - epsilon) * mpf(target[c]) + epsilon / len(x)), x[c], lse)
            for c in range(len(x))
        )
    else:
        p = exp(x[target] - lse)
        power = mpf(1) if options.gamma == 0 else (1 - p) ** mpf(options.gamma)
        loss = term((1 - epsilon) * options.of_class(target), x[target], lse) * power
        among = options.among(x, target)
        if among and epsilon > 0:
            loss += sum(term(epsilon / len(among) * options.of_class(c), x[c], lse) for c in among)
    return loss + mpf(options.z) * lse**2


def gradient_of(x, i, target, options):
    above, below = list(x), list(x)
    above[i] += STEP
    below[i] -= STEP
    return (loss_of(above, target, options) - loss_of(below, target, options)) / (2 * STEP)


def scale_of_gradient(x, i, target, options):
    """The sum of the magnitudes of the terms of a gradient, which may cancel."""
    lse = lse_of(x)
    p = exp(x[i] - lse)
    epsilon = mpf(options.epsilon)
    scale = abs(2 * mpf(options.z) * lse * p)
    if isinstance(target, list):
        v = [options.of_class(c) * ((1 - epsilon) * mpf(target[c]) + epsilon / len(x)) for c in range(len(x))]
        return scale + (sum(v) - v[i]) * p + v[i] * (1 - p)
    q = 1 - exp(x[target] - lse)
    hard = (1 - epsilon) * options.of_class(target)
    if options.gamma > 0:
        gamma = mpf(options.gamma)
        hard *= q**gamma * (1 + gamma * (1 - q) * (lse - x[target]) / q) * condition(x, target, options)
    scale += hard * (1 - p if i == target else p)
    among = options.among(x, target)
    if among:
        total = sum(options.of_class(c) for c in among)
        own = options.of_class(i) if i in among else 0
        scale += epsilon / len(among) * ((total - own) * p + own * (1 - p))
    return scale


def condition(x, target, options):
    """A power makes a relative error in the logarithm of its base larger."""
    if options.gamma == 0 or isinstance(target, list):
        return mpf(1)
    return 1 + mpf(options.gamma) * abs(log(1 - exp(x[target] - lse_of(x))))


def rows(rng):
    """Logits and a target: ordinary, far from 0, tied, down to the smallest normal results, masked."""
    for classes in [1, 2, 3, 5, 10]:
        target = rng.randrange(classes)
        yield [f32(rng.gauss(0, 2)) for _ in range(classes)], target
        yield [f32(1000 + rng.gauss(0, 3)) for _ in range(classes)], target
        yield [f32(rng.uniform(-110, 0)) for _ in range(classes)], target
        yield [f32(rng.uniform(90, 100)) for _ in range(classes)], target
        yield [float(rng.randrange(3)) for _ in range(classes)], target
        for gap in [1.0, 16.0, 20.0, 40.0, 80.0, 300.0]:
            row = [f32(rng.gauss(0, 1)) for _ in range(classes)]
            row[target] = f32(gap)
            yield row, target
            if classes > 1:
                row = list(row)
                row[target], row[target - 1] = row[target - 1], row[target]
                yield row, target
        masked = [-inf if c % 3 == 2 else f32(rng.gauss(0, 5)) for c in range(classes)]
        yield masked, 0
        yield [f32(v) for v in [3e38, -3e38, 1e-45, 1e30, 0.0, 2e38, -1e-40, 5.0, 3e38, -1.0][:classes]], 0


def variants(x, target, rng):
    classes = len(x)
    weight = [f32(rng.uniform(0, 4)) for _ in range(classes)]
    weight[classes - 1] = 0.0 if classes > 1 and target != classes - 1 else weight[classes - 1]
    epsilon, gamma, z = rng.choice(EPSILONS), rng.choice(GAMMAS), rng.choice(Z_LOSSES)
    is_masked = any(isinf(v) for v in x)
    is_huge = any(abs(v) > 1e20 for v in x if not isinf(v))
    yield target, Options()
    if is_huge:
        return
    smoothing = "live" if is_masked else rng.choice(["all", "others", "live"])
    yield target, Options(weight=weight)
    yield target, Options(epsilon=epsilon, smoothing=smoothing)
    yield target, Options(weight=weight, epsilon=epsilon, smoothing=smoothing, z=z)
    gamma = 0.0 if classes == 1 else gamma  # (1 - p) is 0 there, and its logarithm nothing
    yield target, Options(gamma=gamma)
    yield target, Options(gamma=gamma, weight=weight, epsilon=epsilon, smoothing=smoothing, z=z)
    probabilities = [0.0 if isinf(v) or rng.random() < 0.3 else f32(rng.random()) for v in x]
    yield probabilities, Options()
    if not is_masked:
        yield probabilities, Options(weight=weight, epsilon=epsilon, z=z)


def text(values):
    return ",".join("-inf" if isinf(v) else repr(float(v)) for v in values)


def point(name, value, scale):
    print(name, nstr(value, DIGITS), nstr(scale, 6))


def main():
    rng = random.Random(1)
    print("# Made by make_points.py, with mpmath in decimal arithmetic of 60 digits and more. A row, its options, and of")
    print("# each result its value and what its error is relative to: the magnitudes of its terms. Logits, weights and")
    print("# probabilities are f32; epsilon, gamma and z are f64.")
    for x, target in rows(rng):
        for target, options in variants(x, target, rng):
            of = "probabilities " + text(target) if isinstance(target, list) else f"target {target}"
            weight = "-" if options.weight is None else text(options.weight)
            print(f"row {text(x)} {of} weight {weight} smoothing {options.smoothing} epsilon {options.epsilon!r}", end="")
            print(f" gamma {options.gamma!r} z {options.z!r}")
            logits = [v if isinf(v) else mpf(v) for v in x]
            lse = lse_of(logits)
            largest = max(logits)
            point("lse", lse, abs(largest) + (lse - largest))
            loss = loss_of(logits, target, options)
            point("loss", loss, abs(loss) * condition(logits, target, options))
            # The target, its neighbours, and the ends.
            at = 0 if isinstance(target, list) else target
            for i in sorted({0, at, (at + 1) % len(x), len(x) - 1}):
                if not isinf(x[i]):
                    gradient = gradient_of(logits, i, target, options)
                    point(f"gradient {i}", gradient, scale_of_gradient(logits, i, target, options))
    for _ in range(150):
        x = -(2.0 ** rng.uniform(-40, 9.46))
        print("exp", repr(x), nstr(exp(mpf(x)), DIGITS))
        y = 2.0 ** rng.uniform(-1000, 1000) if rng.random() < 0.3 else 2.0 ** rng.uniform(-60, 20)
        print("ln_1p", repr(y), nstr(log1p(mpf(y)), DIGITS))


main()
