"""A row of a plan as one CUDA kernel: one captured graph of a denoising step serves every step of every run.

What differs from step to step lies in device memory: the plan's numbers in a table, its current row in a counter.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.backends.device import Array
from runtime.diffusion.schedulers.plan import Plan, Weights
from runtime.errors import InputError

MAX_STEPS = 2048  # model calls: 1000 steps of a scheduler with two calls a step, and some
MAX_DEPTH = 16  # PNDM's Runge-Kutta steps look 13 entries back
_HEADER = 8  # timestep, input_scale, guidance_scale, clip range, noise row or -1, saves, pushes, entries kept
_ARRAYS = 5  # weights before the history's: sample, output, saved, prediction, noise
_BLOCK = 256
_OPTIONS = ("--fmad=false",)  # rounds each product as NumPy does; the kernel waits on memory, not on arithmetic

SOURCE = r"""
// In double, in the order of the host's sum. A term of weight zero may be anything, NaN included: it is not read.
__device__ float combine(const double* weights, const double* terms, const float* history, long long n, int kept) {
    double sum = 0.0;
    for (int k = 0; k < 5; ++k)
        if (weights[k] != 0.0) sum += weights[k] * terms[k];
    for (int k = 0; k < kept; ++k)
        if (weights[5 + k] != 0.0) sum += weights[5 + k] * (double)history[k * n];
    return (float)sum;
}

extern "C" __global__ void prepare(const double* table, const int* counter, int columns, const float* sample,
                                   float* model_input, float* timestep, long long n, int copies) {
    const double* row = table + (long long)*counter * columns;
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i == 0) timestep[0] = (float)row[0];
    if (i >= n) return;
    const float scaled = (float)(row[1] * (double)sample[i]);
    for (int k = 0; k < copies; ++k) model_input[k * n + i] = scaled;
}

extern "C" __global__ void update(const double* table, const int* counter, int columns, float* sample,
                                  const float* output, float* saved, float* history, const float* noise,
                                  bool* finite, long long n, int depth, int copies) {
    const double* row = table + (long long)*counter * columns;
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const int width = 5 + depth, kept = (int)row[7];
    const double *prediction = row + 8, *entry = prediction + width, *next = entry + width, *save = next + width;
    float guided = output[i];  // without guidance, or the unconditional row
    if (copies == 2) guided = guided + (float)row[2] * (output[n + i] - guided);
    double terms[5] = {sample[i], guided, saved[i], 0.0, 0.0};  // then the prediction, noise
    const float clip = (float)row[3], clean = combine(prediction, terms, history, n, 0);
    terms[3] = clean < -clip ? -clip : clean > clip ? clip : clean;  // NaN stays NaN
    history += i;
    if (row[6] != 0.0) {
        const float newest = combine(entry, terms, history, n, 0);
        for (int k = kept - 1; k > 0; --k) history[k * n] = history[(k - 1) * n];
        history[0] = newest;
    }
    if (row[4] >= 0.0) terms[4] = noise[(long long)row[4] * n + i];
    if (row[5] != 0.0) saved[i] = combine(save, terms, history, n, kept);
    const float made = combine(next, terms, history, n, kept);
    if (!(made - made == 0.0f)) *finite = false;  // NaN or Inf; whoever writes, writes the same
    sample[i] = made;
}

// A launch of its own: no block of `update` may see the counter move.
extern "C" __global__ void next_step(int* counter) { *counter += 1; }
"""


def can_fuse(plan: Plan) -> bool:
    """Whether the kernel can do it: dynamic thresholding sorts whole rows, a thread sees one element."""
    return plan.bound.dynamic_ratio is None


def noisy_steps(plan: Plan) -> int:
    """How many draws of noise a run takes: the rows of `noise` that FusedSteps wants."""
    return sum(step.update.noise is not None for step in plan.steps)


def table(plan: Plan, guidance_scale: float | None = None, depth: int | None = None) -> npt.NDArray[np.float64]:
    """The plan as numbers (steps, columns), with room for the weights of `depth` history entries, plan.depth if None.

    A row is the header, then the weights of prediction, entry, update and save. Raises InputError for a plan that
    cannot be fused or looks further back.
    """
    depth = plan.depth if depth is None else depth
    if not can_fuse(plan):
        raise InputError("dynamic thresholding cannot be fused: turn off the scheduler's thresholding")
    if plan.depth > depth:
        raise InputError(f"the plan looks {plan.depth} history entries back, there is room for {depth}")
    clip = np.inf if plan.bound.clip_range is None else plan.bound.clip_range
    rows: list[list[float]] = []
    drawn = kept = 0
    for step in plan.steps:
        noisy, pushes = step.update.noise is not None, step.entry is not None and plan.depth > 0
        kept = min(kept + pushes, plan.depth)  # what an earlier run left behind is never read
        row = [step.timestep, step.input_scale, 1.0 if guidance_scale is None else guidance_scale, clip]
        row += [drawn if noisy else -1, step.save is not None, pushes, kept]
        for weights in (step.prediction, step.entry or Weights(), step.update, step.save or Weights()):
            row += [weights.sample, weights.output, weights.saved, weights.prediction, weights.noise or 0.0]
            row += [*weights.history, *[0.0] * (depth - len(weights.history))]
        drawn += noisy
        rows.append(row)
    return np.array(rows, np.float64)


class FusedSteps:
    """A run's state on the device; `prepare`, the model and `update` are one step, and the same launches every step.

    `xp` is cupy, `sample` a C-contiguous float32 array (rows, channels, height, width) of its own, updated in place.
    `noise` (noisy_steps(plan) or more, *sample.shape), what the run draws, in order: as many rows as given here fit
    later runs. A step whose model sees and returns twice the rows, the unconditional ones first, is guided by
    `guidance_scale`. All work is on xp's current stream. Run one step before capturing one: the first launch loads the
    kernels.
    """

    room = MAX_DEPTH  # history entries that every instance has room for

    def __init__(
        self, xp: Any, plan: Plan, sample: Array, guidance_scale: float | None = None, noise: Array | None = None
    ) -> None:
        self._xp, self.sample = xp, sample
        self._check("sample", sample, sample.size)
        self._depth = max(plan.depth, MAX_DEPTH)
        self._columns = _HEADER + 4 * (_ARRAYS + self._depth)
        self._table = xp.zeros((max(len(plan.steps), MAX_STEPS), self._columns), np.float64)
        self._counter = xp.zeros(1, np.int32)
        self._saved = xp.zeros(sample.size, np.float32)
        self._history = xp.zeros((self._depth, sample.size), np.float32)  # newest first
        self.finite = xp.ones(1, bool)  # whether no step of the run so far made NaN or Inf
        self._noise = xp.zeros((1 if noise is None else max(len(noise), 1), sample.size), np.float32)
        self._kernels = {name: xp.RawKernel(SOURCE, name, _OPTIONS) for name in ("prepare", "update", "next_step")}
        self.reset(plan, guidance_scale, noise)

    def reset(self, plan: Plan, guidance_scale: float | None = None, noise: Array | None = None) -> None:
        """Start another run of the same shape in the same buffers, which a captured graph points to.

        The sample is the caller's to fill. Raises InputError for a run that the buffers were not made for.
        """
        rows = table(plan, guidance_scale, self._depth)
        given, wanted = 0 if noise is None else len(noise), noisy_steps(plan)
        if len(rows) > len(self._table) or not wanted <= given <= len(self._noise):
            raise InputError(
                f"the run has {len(rows)} steps, draws {wanted} times and came with {given} rows of noise; "
                f"there is room for {len(self._table)} steps and {len(self._noise)} rows"
            )
        self._table[: len(rows)] = self._xp.asarray(rows)
        if noise is not None:
            self._noise[:given] = self._xp.asarray(noise, np.float32).reshape(given, self.sample.size)
        self._counter.fill(0)
        self.finite.fill(True)

    def prepare(self, model_input: Array, timestep: Array) -> None:
        """Fill in `model_input` (rows, twice with guidance, ...) and `timestep` (1,), float32, for the current step."""
        copies = self._copies("model_input", model_input)
        self._check("timestep", timestep, 1)
        constants = np.int64(self.sample.size), np.int32(copies)
        self._launch("prepare", np.int32(self._columns), self.sample, model_input, timestep, *constants)

    def update(self, output: Array) -> None:
        """Apply the current step to the sample: `output` is of model_input's shape, float32. Then go to the next."""
        copies = self._copies("output", output)
        buffers = self.sample, output, self._saved, self._history, self._noise, self.finite
        constants = np.int64(self.sample.size), np.int32(self._depth), np.int32(copies)
        self._launch("update", np.int32(self._columns), *buffers, *constants)
        self._kernels["next_step"]((1,), (1,), (self._counter,))

    def _launch(self, name: str, *arguments: Any) -> None:
        blocks = -(-self.sample.size // _BLOCK)
        self._kernels[name]((blocks,), (_BLOCK,), (self._table, self._counter, *arguments))

    def _copies(self, name: str, array: Array) -> int:
        """Whether there are the rows of the sample, or twice as many: then this step has guidance."""
        copies = 2 if array.size > self.sample.size else 1
        self._check(name, array, copies * self.sample.size)
        return copies

    @staticmethod
    def _check(name: str, array: Array, size: int) -> None:
        if array.dtype != np.float32 or array.size != size or not array.flags.c_contiguous:
            came = f"{array.dtype} {tuple(array.shape)}"
            raise InputError(f"{name} must be C-contiguous float32 with {size} elements, got {came}")
