"""Implementations by somebody else, for `conform`: one that is right, five that are wrong, one with a part of it."""

import numpy as np


def log_sum_exp(x, axis):
    top = x.max(axis=axis, keepdims=True)
    return top + np.log(np.exp(x - top).sum(axis=axis, keepdims=True))


class SinkhornOnly:
    """One function, and nothing of the rest of the contract."""

    def sinkhorn(self, scores, *, epsilon, iterations=3, keep=None):
        if epsilon <= 0 or iterations < 1:
            raise ValueError("epsilon must be positive, iterations at least 1")
        logits = np.asarray(scores, dtype=np.float64) / epsilon
        rows = np.zeros((len(logits), 1))
        for _ in range(iterations):
            columns = -log_sum_exp(logits + rows, axis=0)
            rows = -log_sum_exp(logits + columns, axis=1)
        codes = np.exp(logits + columns + rows)
        return codes if keep is None else codes[len(codes) - keep :]


class Right(SinkhornOnly):
    """All of the maths, in NumPy."""

    def normalize_rows(self, array):
        return array / np.maximum(np.sqrt(np.square(array).sum(axis=-1, keepdims=True)), 1e-12)

    def swapped_loss(self, scores, codes, *, temperature, assigned):
        views, batch, _ = scores.shape
        logits = np.asarray(scores, dtype=np.float64) / temperature
        predictions = logits - log_sum_exp(logits, axis=-1)
        loss, gradient = 0.0, np.zeros_like(logits)
        for code, own in zip(codes, assigned, strict=True):
            for view in self.predicted(range(views), own):
                loss -= (code * predictions[view]).sum()
                gradient[view] += (np.exp(predictions[view]) - code) / temperature
        terms = batch * len(assigned) * (views - 1)
        return loss / terms, gradient / terms

    def predicted(self, views, own):
        return [view for view in views if view != own]

    def queue_read(self, queue, count, prototypes):
        return queue @ prototypes.T if self.full(count, queue.shape[1]) else None

    def full(self, count, rows):
        return count >= rows

    def queue_push(self, queue, count, embeddings):
        rows = queue.shape[1]
        return np.concatenate([embeddings, queue], axis=1)[:, :rows], count + embeddings.shape[1]

    def larc_sgd(self, params, grads, momentum, *, lr, weight_decay, trust, decay=0.9):
        params, momentum = dict(params), dict(momentum)
        for name, gradient in grads.items():
            if gradient is not None:
                weight = params[name]
                change = gradient
                size, slope = np.linalg.norm(weight), np.linalg.norm(gradient)
                if size > 0 and slope > 0:
                    ratio = trust * size / (slope + weight_decay * size + 1e-8)
                    change = ratio * (gradient + weight_decay * weight)
                params[name], momentum[name] = self.moved(weight, change, momentum[name], lr, decay)
        return params, momentum

    def moved(self, weight, gradient, buffer, lr, decay):
        buffer = gradient if buffer is None else decay * buffer + gradient
        return weight - lr * buffer, buffer


class NoRowNormalisation(Right):
    """Codes that sum to 1 over the samples of a prototype."""

    def sinkhorn(self, scores, *, epsilon, iterations=3, keep=None):
        codes = super().sinkhorn(scores, epsilon=epsilon, iterations=iterations)
        codes = codes / codes.sum(axis=0, keepdims=True)
        return codes if keep is None else codes[len(codes) - keep :]


class EpsilonSlightlyOff(Right):
    """A well-meant guard against division by zero."""

    def sinkhorn(self, scores, *, epsilon, iterations=3, keep=None):
        if epsilon <= 0:
            raise ValueError("epsilon must be positive")
        return super().sinkhorn(scores, epsilon=epsilon * 1.002, iterations=iterations, keep=keep)


class OwnViewPredicted(Right):
    """Each view predicts its own code too."""

    def predicted(self, views, own):
        return list(views)


class UsedBeforeFull(Right):
    """The queue is read as soon as something is in it."""

    def full(self, count, rows):
        return count > 0


class RateInsideMomentum(Right):
    """The learning rate goes into the buffer, as in another convention."""

    def moved(self, weight, gradient, buffer, lr, decay):
        buffer = lr * gradient if buffer is None else decay * buffer + lr * gradient
        return weight - buffer, buffer
