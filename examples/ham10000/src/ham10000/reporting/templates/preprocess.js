// Preprocessing of an image, equal to `Run.preprocess` in Python to the last bit of each pixel.
//
// PyTorch resizes uint8 images with antialiasing in fixed-point arithmetic: a horizontal and then a
// vertical pass, each rounded to grey levels, with triangular weights of 16 bits. Browsers resize
// with other filters, so a canvas must not do it.

"use strict";

// Return the first source position, the number of positions and the integer weights of each output
// position along an axis.
function resamplingWeights(from, to) {
  const scale = from / to;
  const support = Math.max(scale, 1);
  const widest = Math.ceil(support) * 2 + 1;
  const starts = new Int32Array(to);
  const counts = new Int32Array(to);
  const exact = new Float64Array(to * widest);
  let largest = 0;
  for (let place = 0; place < to; place += 1) {
    const centre = scale * (place + 0.5);
    const start = Math.max(Math.trunc(centre - support + 0.5), 0);
    const count = Math.min(Math.trunc(centre + support + 0.5), from) - start;
    starts[place] = start;
    counts[place] = Math.min(Math.max(count, 0), widest);
    let total = 0;
    for (let tap = 0; tap < counts[place]; tap += 1) {
      const distance = Math.abs((tap + start - centre + 0.5) * (1 / support));
      exact[place * widest + tap] = Math.max(1 - distance, 0);
      total += exact[place * widest + tap];
    }
    for (let tap = 0; tap < counts[place]; tap += 1) {
      exact[place * widest + tap] /= total;
      largest = Math.max(largest, exact[place * widest + tap]);
    }
  }
  let bits = 0; // as many as keep the largest weight below 2 ** 15
  while (bits < 22 && Math.trunc(0.5 + largest * 2 ** (bits + 1)) < 2 ** 15) bits += 1;
  const weights = Int32Array.from(exact, (weight) => Math.trunc(0.5 + weight * 2 ** bits));
  return { starts, counts, weights, widest, bits };
}

// Resample one axis of a plane. `step` is the distance of neighbours on this axis, `across` that of
// neighbours on the other axis.
function resampleAxis(source, target, axis, lines, from, to) {
  const { starts, counts, weights, widest, bits } = axis;
  const half = bits > 0 ? 2 ** (bits - 1) : 0;
  for (let place = 0; place < starts.length; place += 1) {
    const first = starts[place] * from.step;
    for (let line = 0; line < lines; line += 1) {
      let sum = half;
      let position = from.offset + line * from.across + first;
      for (let tap = 0; tap < counts[place]; tap += 1) {
        sum += source[position] * weights[place * widest + tap];
        position += from.step;
      }
      target[to.offset + line * to.across + place * to.step] = Math.min(sum >> bits, 255);
    }
  }
}

// Resize to size x size without keeping the aspect ratio. `pixels` are RGBA, row by row, as from
// `getImageData`. Returns red, green and blue planes, (3, size, size), of grey levels.
function resizePixels(pixels, width, height, size) {
  const out = new Uint8Array(3 * size * size);
  const narrow = new Uint8Array(size * height);
  const [across, down] = [resamplingWeights(width, size), resamplingWeights(height, size)];
  for (let channel = 0; channel < 3; channel += 1) {
    resampleAxis(
      pixels, narrow, across, height,
      { offset: channel, step: 4, across: 4 * width }, { offset: 0, step: 1, across: size },
    );
    resampleAxis(
      narrow, out, down, size,
      { offset: 0, step: size, across: 1 },
      { offset: channel * size * size, step: size, across: 1 },
    );
  }
  return out;
}

// Scale grey levels to 0..1, subtract the mean and divide by the standard deviation of each channel.
function normalizePixels(planes, mean, std) {
  const inputs = new Float32Array(planes.length);
  const area = planes.length / 3;
  for (let channel = 0; channel < 3; channel += 1) {
    const factor = Math.fround(1 / (255 * std[channel]));
    const shift = Math.fround(mean[channel] / std[channel]);
    for (let place = channel * area; place < (channel + 1) * area; place += 1) {
      inputs[place] = Math.fround(planes[place] * factor) - shift;
    }
  }
  return inputs;
}
