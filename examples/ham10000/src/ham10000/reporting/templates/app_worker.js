// The model, in a worker, so that the page reacts while it computes. The page starts this script
// after ONNX Runtime Web (`ort`) and preprocess.js, in one blob.

"use strict";

const MAX_PIXELS = 50_000_000; // as in Python
let session;
let settings;

async function load({ wasm, loader, model, config }) {
  settings = config;
  // One thread: more need cross-origin isolation, which a file opened from disk never has.
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = wasm;
  const script = new Blob([loader], { type: "text/javascript" });
  ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(script) };
  session = await ort.InferenceSession.create(new Uint8Array(model));
  const { size } = settings;
  await session.run({ images: new ort.Tensor("float32", new Float32Array(3 * size * size), [1, 3, size, size]) });
  return {};
}

// Decode an image rotated by its EXIF orientation and without colour management, as Pillow does.
async function decode(file) {
  const options = { imageOrientation: "from-image", colorSpaceConversion: "none" };
  const bitmap = await createImageBitmap(file, options).catch(() => {
    throw new Error(`${file.name || "This file"} is not an image that this browser can open. Use a JPEG or PNG.`);
  });
  const { width, height } = bitmap;
  if (width * height > MAX_PIXELS) {
    throw new Error(`The image has ${width} x ${height} pixels, more than ${MAX_PIXELS / 1e6} million. Make it smaller.`);
  }
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, width, height);
}

async function predict({ file }) {
  const started = performance.now();
  const { data, width, height } = await decode(file);
  const { size, mean, std } = settings;
  const inputs = normalizePixels(resizePixels(data, width, height, size), mean, std);
  const found = await session.run({ images: new ort.Tensor("float32", inputs, [1, 3, size, size]) });
  return {
    probabilities: [...found.probabilities.data],
    maps: found.maps ? { values: found.maps.data, shape: found.maps.dims.slice(1) } : null,
    width,
    height,
    milliseconds: performance.now() - started,
  };
}

const JOBS = { load, predict };

self.addEventListener("message", async ({ data: { job, id, ...options } }) => {
  try {
    self.postMessage({ id, result: await JOBS[job](options) });
  } catch (error) {
    self.postMessage({ id, error: error.message || String(error) });
  }
});
