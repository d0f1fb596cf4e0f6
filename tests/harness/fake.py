"""A small SwAV in NumPy that fulfils Views and Trainer, so that the harness is tested without a framework.

Its backbone is one linear layer on images averaged to 4 x 4 pixels; loss, codes, queue-less step and schedule are the
specification's, its gradient is written out. Subclasses fail in one way each. Children import it as `fake:Fake`.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np

from swav_spec.errors import require
from swav_spec.loss import swapped_loss
from swav_spec.optimizer import larc_sgd, normalize_rows, sgd
from swav_spec.queue import queue_push, queue_read
from swav_spec.schedule import step_settings
from swav_spec.sinkhorn import sinkhorn

LAYER, PROTOTYPES = "projection_head.3.weight", "prototypes.weight"
PIXELS = 4 * 4 * 3


class Fake:
    fulfils: ClassVar = ("views", "trainer")
    modes: ClassVar = ("eager",)

    def __init__(self, execution):
        self.execution = execution

    def describe(self):
        return {
            "framework": "fake",
            "version": "1",
            "device": "cpu",
            "precision": self.execution.precision,
            "mode": "eager",
            "flags": {},
            "compiler": None,
        }

    def to_device(self, array):
        return np.array(array)

    def to_host(self, array):
        return np.array(array)

    def fence(self, *values):
        pass

    def reset_peak(self):
        pass

    def peak_memory_bytes(self):
        return None

    def compilations(self):
        return None

    def views(self, images, plan, config):
        return [
            np.concatenate([self._crop(images, plan.index, group, crop) for crop in range(len(group.box))])
            for group in plan.groups
        ]

    def _crop(self, images, index, group, crop):
        top, left, height, width = group.box[crop].T[:, :, None, None]
        steps = (np.arange(group.size) + 0.5) / group.size
        rows = top + (steps[:, None] * height).astype(int)
        columns = left + (steps[None, :] * width).astype(int)
        return images[index[:, None, None], rows, columns] / 255.0 - 0.5

    def init(self, config, weights):
        features = np.random.Generator(np.random.PCG64(0)).normal(0, 1, (config.network.embedding, PIXELS))
        params = {LAYER: features, PROTOTYPES: np.array(weights[PROTOTYPES])}
        return SimpleNamespace(config=config, step=0, queue_count=0, params=params, momentum={})

    def step(self, state, images, plan):
        return self.step_on_views(state, self.views(images, plan, state.config))

    def step_on_views(self, state, views):
        config = state.config
        settings = step_settings(config, state.step, state.queue_count)
        params = state.params | {PROTOTYPES: normalize_rows(state.params[PROTOTYPES])}
        pixels = np.concatenate([_pooled(view) for view in views])
        projected = self.embedding(pixels, params)
        norm = np.linalg.norm(projected, axis=1, keepdims=True)
        unit = projected / norm
        scores = (unit @ params[PROTOTYPES].T).reshape(config.views, config.batch, -1)
        codes = np.stack(
            [sinkhorn(scores[view], epsilon=config.epsilon, iterations=config.iterations) for view in config.assigned]
        )
        loss, gradient = swapped_loss(scores, codes, temperature=config.temperature, assigned=config.assigned)
        loss, gradient = self.tampered(loss, gradient)
        flat = gradient.reshape(len(unit), -1)
        to_unit = flat @ params[PROTOTYPES]
        to_projected = (to_unit - unit * (to_unit * unit).sum(axis=1, keepdims=True)) / norm
        grads = {LAYER: to_projected.T @ pixels, PROTOTYPES: flat.T @ unit}
        new, momentum = sgd(params, grads, state.momentum, lr=settings.lr, weight_decay=config.optimizer.weight_decay)
        state = SimpleNamespace(config=config, step=state.step + 1, queue_count=0, params=new, momentum=momentum)
        metrics = {
            "loss": np.float64(loss),
            "lr": np.float64(settings.lr),
            "code_entropy": -(codes * np.log(np.maximum(codes, 1e-30))).sum(axis=-1).mean(),
            "prototypes_used": np.int64(len(np.unique(codes.argmax(axis=-1)))),
            "finite": np.isfinite(scores).all(axis=(1, 2))[list(config.assigned)],
        }
        return state, self.at_step(state.step, metrics)

    def embedding(self, pixels, params):
        return pixels @ params[LAYER].T

    def forward(self, state, views, *, train):
        features = np.concatenate([_pooled(view) for view in views])
        unit = normalize_rows(self.embedding(features, state.params))
        return features, unit, unit @ normalize_rows(state.params[PROTOTYPES]).T

    def encoder_step(self, state, views):
        pixels = np.concatenate([_pooled(view) for view in views])
        projected = self.embedding(pixels, state.params)
        return np.linalg.norm(2 / projected.size * projected.T @ pixels)

    def tampered(self, loss, gradient):
        return loss, gradient

    def at_step(self, done, metrics):
        return metrics

    def embed(self, state, images):
        projected = self.embedding(_pooled(images / 255.0 - 0.5), state.params)
        return projected, normalize_rows(projected)

    def to_arrays(self, state):
        model = {f"model/{name}": np.array(value) for name, value in state.params.items()}
        momentum = {f"momentum/{name}": np.array(value) for name, value in state.momentum.items()}
        return model | momentum | {"step": np.array(state.step), "queue_count": np.array(state.queue_count)}

    def from_arrays(self, config, arrays):
        parts = {"model": {}, "momentum": {}}
        for name, value in arrays.items():
            part, slash, key = name.partition("/")
            if slash:
                parts[part][key] = np.array(value)
        counts = {name: int(arrays[name]) for name in ("step", "queue_count")}
        return SimpleNamespace(config=config, params=parts["model"], momentum=parts["momentum"], **counts)


def _pooled(images):
    count, height, width, _ = images.shape
    return images.reshape(count, 4, height // 4, 4, width // 4, 3).mean(axis=(2, 4)).reshape(count, PIXELS)


class WithMaths(Fake):
    """Has the specification's own arithmetic alone as well."""

    fulfils: ClassVar = ("maths", "views", "trainer")
    sinkhorn = staticmethod(sinkhorn)
    swapped_loss = staticmethod(swapped_loss)
    queue_read = staticmethod(queue_read)
    queue_push = staticmethod(queue_push)
    larc_sgd = staticmethod(larc_sgd)


class WithoutEncoder(Fake):
    """A stranger's that has only what training needs."""

    encoder_step = None


class BrokenEncoder(Fake):
    def encoder_step(self, state, views):
        raise RuntimeError("no backward pass for /home/someone/kernel.cu")


class SlowEncoder(Fake):
    def encoder_step(self, state, views):
        time.sleep(0.05)
        return super().encoder_step(state, views)


class Traced(Fake):
    """Has a profiler, which writes down the steps that were done, into files named after the machine."""

    traced: list | None = None

    def to_arrays(self, state):
        return super().to_arrays(state) | {"step": np.array(state.step)}

    def from_arrays(self, config, arrays):
        params, momentum = (
            {name.removeprefix(kind): np.array(value) for name, value in arrays.items() if name.startswith(kind)}
            for kind in ("model/", "momentum/")
        )
        return SimpleNamespace(config=config, step=int(arrays["step"]), queue_count=0, params=params, momentum=momentum)

    def at_step(self, done, metrics):
        if self.traced is not None:
            self.traced.append(done)
        return metrics

    @contextlib.contextmanager
    def trace(self, folder):
        self.traced = []
        yield
        (folder / "plugins").mkdir()
        for name in ("my-machine.json.gz", "my-machine.xplane.pb", "other.xplane.pb"):
            (folder / "plugins" / name).write_text(str(self.traced))
        self.traced = None


class BrokenTrace(Traced):
    def trace(self, folder):
        raise RuntimeError("CUPTI is busy")


class OwnViews(Fake):
    """Makes views of its own, which are not the specification's, and does not say that it fulfils Views."""

    fulfils: ClassVar = ("trainer",)

    def views(self, images, plan, config):
        return [view + 0.1 for view in super().views(images, plan, config)]


class WrongWithOwnViews(OwnViews):
    def tampered(self, loss, gradient):
        return 2 * loss, gradient


class Slow(Fake):
    """A tenth of a second a step: time to be interrupted in."""

    def at_step(self, done, metrics):
        time.sleep(0.1)
        return metrics


class Paced(Fake):
    """A step takes as long as FAKE_STEP_S says."""

    def at_step(self, done, metrics):
        time.sleep(float(os.environ["FAKE_STEP_S"]))
        return metrics


class Hanging(Fake):
    """Never ends, and has a child of its own that does not either."""

    def at_step(self, done, metrics):
        if done == 12:
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", os.environ["FAKE_MARK"]])
            time.sleep(600)
        return metrics


class HangingInFloat32(Fake):
    def at_step(self, done, metrics):
        if self.execution.precision == "float32":
            time.sleep(600)
        return metrics


class Segfaulting(Fake):
    def at_step(self, done, metrics):
        if done == 12:
            os.kill(os.getpid(), signal.SIGSEGV)
        return metrics


class Killed(Fake):
    def at_step(self, done, metrics):
        os.kill(os.getpid(), signal.SIGKILL)


class Full(Fake):
    """Out of memory, as NumPy says it."""

    def at_step(self, done, metrics):
        np.empty(1 << 50, dtype=np.uint8)


class Limited(Fake):
    """Out of memory at a limit that the system sets, as `ulimit -v` or a container does."""

    def at_step(self, done, metrics):
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + (64 << 20), resource.RLIM_INFINITY))
        return metrics | {"code_entropy": np.ones(1 << 30).mean()}


class FullGpu(Fake):
    """Out of memory, as CUDA's allocator says it."""

    def at_step(self, done, metrics):
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")


class LostGpu(Fake):
    def at_step(self, done, metrics):
        if done == 13:
            raise RuntimeError("CUDA error: the GPU has fallen off the bus")
        return metrics


class Broken(Fake):
    """An exception that names a file and this machine, and tries to draw on the terminal."""

    def at_step(self, done, metrics):
        print("\x1b[2J noise on standard output")
        raise ValueError("bad [bold]file[/bold]\n\x1b[31m /home/someone/secret/weights.bin <script>alert(1)</script>")


class Exiting(Fake):
    def at_step(self, done, metrics):
        print("the last thing it said", file=sys.stderr)
        sys.stderr.flush()
        os._exit(7)


class FullAbove40(Fake):
    """A device that holds the steps of batches up to 40."""

    def step(self, state, images, plan):
        if len(plan.index) > 40:
            raise MemoryError(f"no room for {len(plan.index)}")
        return super().step(state, images, plan)


class AbortingAbove40(Fake):
    """The same, whose allocator cannot raise."""

    def step(self, state, images, plan):
        if len(plan.index) > 40:
            print("terminate called after throwing an instance of 'std::bad_alloc'", file=sys.stderr, flush=True)
            os.abort()
        return super().step(state, images, plan)


class CrashingAbove40(Fake):
    """The same, which does not look whether it was given memory."""

    def step(self, state, images, plan):
        if len(plan.index) > 40:
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().step(state, images, plan)


class BrokenAbove40(Fake):
    def step(self, state, images, plan):
        if len(plan.index) > 40:
            raise ValueError("no kernel for so many, see /home/someone/kernel.cu")
        return super().step(state, images, plan)


class BrokenLater(Fake):
    """Goes well for as long as a try of a batch lasts; batches up to 96 fit."""

    def step(self, state, images, plan):
        if len(plan.index) > 96:
            raise MemoryError(f"no room for {len(plan.index)}")
        return super().step(state, images, plan)

    def at_step(self, done, metrics):
        if done > 10:
            raise ValueError("broken after ten steps")
        return metrics


class WideFloat32(Fake):
    """Float32 has no room for batches above FAKE_ROOM; a step in it takes 4 MiB an image, in others next to nothing."""

    def step_on_views(self, state, views):
        count = state.config.batch
        if self.execution.precision == "float32":
            if count > int(os.environ["FAKE_ROOM"]):
                raise MemoryError(f"no room for {count} in float32")
            np.ones((count, 1 << 19))
        return super().step_on_views(state, views)


class WideAndWrongInBfloat16(WideFloat32):
    def tampered(self, loss, gradient):
        return (1.1 * loss if self.execution.precision == "bfloat16" else loss), gradient


class WideWithOwnViews(WideFloat32):
    fulfils: ClassVar = ("trainer",)

    def views(self, images, plan, config):
        return [view + 0.1 for view in super().views(images, plan, config)]


class WrongInBfloat16WithOwnViews(WideWithOwnViews):
    def tampered(self, loss, gradient):
        return (1.1 * loss if self.execution.precision == "bfloat16" else loss), gradient


class Hungry(Fake):
    """Takes 4 MiB for each image of the batch."""

    def step(self, state, images, plan):
        np.ones((len(plan.index), 1 << 19))
        return super().step(state, images, plan)


class WithOneKernel(Fake):
    """Arithmetic of its own for timing, of which all but the loss is missing or broken."""

    def _full(self, **settings):
        raise RuntimeError("CUDA out of memory in /home/someone/kernel.cu")

    timed_maths = SimpleNamespace(swapped_loss=swapped_loss, sinkhorn=_full)


class NotFinite(Fake):
    def at_step(self, done, metrics):
        return metrics | {"finite": np.array([True, done != 13])}


class NotANumber(Fake):
    def tampered(self, loss, gradient):
        return np.nan, gradient


class Wrong(Fake):
    """A loss that forgets to divide by the number of assigned views; its gradient is right."""

    def tampered(self, loss, gradient):
        return 2 * loss, gradient


class WrongGradient(Fake):
    """A gradient that is a thousandth too large."""

    def tampered(self, loss, gradient):
        return loss, 1.001 * gradient


class WrongInBfloat16(Fake):
    def tampered(self, loss, gradient):
        return (1.1 * loss if self.execution.precision == "bfloat16" else loss), gradient


class Collapsed(Fake):
    """All images have the same embedding."""

    def embedding(self, pixels, params):
        return np.ones((len(pixels), PIXELS)) @ params[LAYER].T

    def init(self, config, weights):
        state = super().init(config, weights)
        state.params[PROTOTYPES] = np.ones_like(state.params[PROTOTYPES])
        return state


class Unfenced(Fake):
    """Computes in the background, and its fence does not wait."""

    def at_step(self, done, metrics):
        return metrics | {"loss": _Later(metrics["loss"])}

    def to_host(self, array):
        return array.wait() if isinstance(array, _Later) else np.array(array)


class Fenced(Unfenced):
    """The same, with a fence that waits."""

    def fence(self, *values):
        for value in values:
            if isinstance(value, dict):
                value["loss"].wait()


class _Later:
    last: threading.Thread | None = None

    def __init__(self, value):
        before = _Later.last

        def work():
            if before:
                before.join()
            time.sleep(0.005)

        self.value = value
        self.thread = _Later.last = threading.Thread(target=work)
        self.thread.start()

    def wait(self):
        self.thread.join()
        return np.array(self.value)


class WithoutGpu(Fake):
    def __init__(self, execution):
        require(execution.device == "cpu", "device", execution.device, "cpu: there is no GPU")
        super().__init__(execution)


class Strange(Fake):
    """Reports what no record may hold."""

    def describe(self):
        return {"framework": "fake"}

    def compilations(self):
        return -5


class Unprintable(Fake):
    def describe(self):
        return {"framework": object()}
