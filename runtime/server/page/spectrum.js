// The picture of a sound: levels by time and mel frequency, in the colours that the style sheet names.

const COLUMNS = 900;
const ROWS = 240;
const WINDOW_S = 0.048;
const RANGE_DB = 75; // below the loudest point, from which on nothing is shown

const mel = (hz) => 1127 * Math.log1p(hz / 700);
const hertz = (mels) => 700 * Math.expm1(mels / 1127);

/** Share of the height, from below, at which a frequency is drawn. */
export const heightOf = (hz, rate) => mel(hz) / mel(rate / 2);

/** Levels of samples (-1 to 1) from 0 to 255, ROWS for each of at most COLUMNS moments, the lowest frequency first. */
export function spectrogram(samples, rate) {
  const width = Math.round(WINDOW_S * rate);
  const size = 2 ** Math.ceil(Math.log2(2 * width)); // padded with zeros: more points a mel at low frequencies
  const columns = Math.max(1, Math.min(COLUMNS, Math.floor(samples.length / 16)));
  const hann = Float32Array.from({ length: width }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / width));
  const edges = Array.from({ length: ROWS + 1 }, (_, row) => (hertz((row / ROWS) * mel(rate / 2)) / rate) * size);
  const transform = fourier(size);
  const real = new Float32Array(size);
  const imaginary = new Float32Array(size);
  const power = new Float32Array(columns * ROWS);
  for (let column = 0; column < columns; column++) {
    const start = Math.round(((column + 0.5) * samples.length) / columns - width / 2);
    real.fill(0);
    imaginary.fill(0);
    for (let i = 0; i < width; i++) real[i] = hann[i] * (samples[start + i] ?? 0);
    transform(real, imaginary);
    for (let row = 0; row < ROWS; row++) {
      power[column * ROWS + row] = loudest(real, imaginary, edges[row], edges[row + 1]);
    }
  }
  const loud = power.reduce((most, value) => Math.max(most, value), 1e-9);
  const level = (value) => 255 * Math.max(0, 1 + (10 * Math.log10(value / loud + 1e-12)) / RANGE_DB);
  return { columns, levels: Uint8Array.from(power, level) };
}

/** Paint levels on a canvas; colours are RGB triples, from silence to the loudest. */
export function paint(canvas, { columns, levels }, colours) {
  const shades = Array.from({ length: 256 }, (_, level) => {
    const at = (level / 255) * (colours.length - 1);
    const from = Math.min(Math.floor(at), colours.length - 2);
    return colours[from].map((value, i) => value + (at - from) * (colours[from + 1][i] - value));
  });
  const image = new ImageData(columns, ROWS);
  for (let row = 0; row < ROWS; row++) {
    for (let column = 0; column < columns; column++) {
      const shade = shades[levels[column * ROWS + ROWS - 1 - row]];
      image.data.set([...shade, 255], 4 * (row * columns + column));
    }
  }
  canvas.width = columns;
  canvas.height = ROWS;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** The loudest power between two places among the bins; a band that holds no bin takes what lies around it. */
function loudest(real, imaginary, low, high) {
  const power = (bin) => real[bin] ** 2 + imaginary[bin] ** 2;
  const middle = (low + high) / 2;
  const before = Math.floor(middle);
  let most = power(before) + (middle - before) * (power(before + 1) - power(before));
  for (let bin = Math.ceil(low); bin < high; bin++) most = Math.max(most, power(bin));
  return most;
}

/** A transform in place of `size` complex numbers, a power of two (Cooley and Tukey, 1965). */
function fourier(size) {
  const cosine = Float32Array.from({ length: size / 2 }, (_, i) => Math.cos((2 * Math.PI * i) / size));
  const sine = Float32Array.from({ length: size / 2 }, (_, i) => -Math.sin((2 * Math.PI * i) / size));
  const swap = (values, i, j) => ([values[i], values[j]] = [values[j], values[i]]);
  return (real, imaginary) => {
    for (let i = 1, j = 0; i < size; i++) {
      let bit = size >> 1;
      for (; j & bit; bit >>= 1) j ^= bit;
      j ^= bit;
      if (i < j) {
        swap(real, i, j);
        swap(imaginary, i, j);
      }
    }
    for (let half = 1; half < size; half *= 2) {
      const stride = size / (2 * half);
      for (let start = 0; start < size; start += 2 * half) {
        for (let i = 0; i < half; i++) {
          const [a, b, c, s] = [start + i, start + i + half, cosine[i * stride], sine[i * stride]];
          const x = real[b] * c - imaginary[b] * s;
          const y = real[b] * s + imaginary[b] * c;
          real[b] = real[a] - x;
          imaginary[b] = imaginary[a] - y;
          real[a] += x;
          imaginary[a] += y;
        }
      }
    }
  };
}
