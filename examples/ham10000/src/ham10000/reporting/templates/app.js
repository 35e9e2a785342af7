// The page: reads an image, asks the worker for a prediction, and shows it with its attention.

"use strict";

(() => {
  const part = (id) => document.getElementById(id);
  const config = JSON.parse(part("config").textContent);
  const picture = part("picture");
  const layer = part("layer");
  const say = (text) => (part("status").textContent = text);
  const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`;
  let maps = null; // { values, count, height, width } of the image that is shown
  let newest = 0; // number of the newest image; results of older ones are dropped

  // --- the worker ---

  const waiting = new Map();
  let worker;

  // Decode a data block of the page: base64 of gzip.
  const unpack = async (id) => {
    const text = atob(part(id).textContent.trim());
    const bytes = new Uint8Array(text.length);
    for (let place = 0; place < text.length; place += 1) bytes[place] = text.charCodeAt(place);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    part(id).remove(); // frees the memory of the text
    return new Response(stream).arrayBuffer();
  };

  const ask = (job, options) =>
    new Promise((resolve, reject) => {
      const id = waiting.size ? Math.max(...waiting.keys()) + 1 : 1;
      waiting.set(id, { resolve, reject });
      worker.postMessage({ job, id, ...options });
    });

  const start = async () => {
    const ids = ["worker", "wasm", "loader", "model"];
    const [script, wasm, loader, model] = await Promise.all(ids.map(unpack));
    worker = new Worker(URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
    worker.addEventListener("message", ({ data: { id, result, error } }) => {
      const { resolve, reject } = waiting.get(id);
      waiting.delete(id);
      if (error === undefined) resolve(result);
      else reject(new Error(error));
    });
    await ask("load", { wasm, loader, model, config });
    say("Ready. Choose an image.");
  };

  const loaded = start();

  // --- an image ---

  const show = async (file, name) => {
    newest += 1;
    const own = newest;
    say("Computing…");
    part("main").setAttribute("aria-busy", "true");
    try {
      await loaded;
      const found = await ask("predict", { file });
      if (own !== newest) return;
      URL.revokeObjectURL(picture.src);
      picture.src = URL.createObjectURL(file);
      picture.alt = `The image ${name}.`;
      await picture.decode();
      part("view").hidden = false;
      part("columns").classList.add("predicted");
      fill(found);
      draw(found);
    } catch (error) {
      if (own === newest) say(`${error.message} Nothing was predicted.`);
    }
    if (own === newest) part("main").removeAttribute("aria-busy");
  };

  const fill = ({ probabilities, milliseconds, width, height }) => {
    const order = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]);
    const body = part("probabilities").tBodies[0];
    body.replaceChildren(
      ...order.map((index) => {
        const row = document.createElement("tr");
        const [name, value, bar] = ["th", "td", "td"].map((tag) => row.appendChild(document.createElement(tag)));
        name.scope = "row";
        name.textContent = config.classes[index];
        value.textContent = percent(probabilities[index]);
        row.dataset.name = config.names[index];
        row.dataset.probability = probabilities[index];
        bar.className = "bar";
        bar.appendChild(document.createElement("span")).style.width = `${100 * probabilities[index]}%`;
        return row;
      }),
    );
    part("probabilities").hidden = false;
    const [first, second] = order;
    say(
      `Most probable of the seven classes: ${config.classes[first]}, ${percent(probabilities[first])}. ` +
        `Second: ${config.classes[second]}, ${percent(probabilities[second])}.`,
    );
    part("reliability").textContent = reliability(probabilities[first]);
    part("time").textContent = `Image of ${width} x ${height} pixels, computed in ${(milliseconds / 1000).toFixed(2)} s.`;
  };

  // What happened on test images with about this probability.
  const reliability = (highest) => {
    const bin = config.bins.find(({ high }) => highest <= high + 1e-9);
    if (!bin) return "";
    const range = `${Math.round(100 * bin.low)} to ${Math.round(100 * bin.high)}\u00a0%`;
    if (bin.count < config.few) {
      return `Only ${bin.count} test images had a highest probability of ${range}: too few to say how often it is right.`;
    }
    return `Of ${bin.count} test images with a highest probability of ${range}, ${percent(bin.right / bin.count)} had the predicted class.`;
  };

  // --- attention ---

  // Resize a map bilinearly and colour it as `softattn.plot.overlay` does: transparent where the
  // attention is at most uniform.
  const overlay = (values, width, height, wide, high) => {
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length || 1;
    const most = Math.max(2, ...values.map((value) => value / mean));
    const image = new ImageData(wide, high);
    for (let y = 0; y < high; y += 1) {
      const down = Math.min(Math.max(((y + 0.5) * height) / high - 0.5, 0), height - 1);
      const top = Math.floor(down);
      const bottom = Math.min(top + 1, height - 1);
      for (let x = 0; x < wide; x += 1) {
        const across = Math.min(Math.max(((x + 0.5) * width) / wide - 0.5, 0), width - 1);
        const left = Math.floor(across);
        const right = Math.min(left + 1, width - 1);
        const mix = (row) => values[row * width + left] * (1 - across + left) + values[row * width + right] * (across - left);
        const value = (mix(top) * (1 - down + top) + mix(bottom) * (down - top)) / mean;
        const colour = config.colours[Math.round(Math.sqrt(Math.min(value / most, 1)) * (config.colours.length - 1))];
        image.data.set([...colour, 255 * 0.7 * (1 - 1 / Math.max(value, 1))], 4 * (y * wide + x));
      }
    }
    return image;
  };

  const paint = (canvas, values, longest) => {
    const scale = longest / Math.max(picture.naturalWidth, picture.naturalHeight);
    canvas.width = Math.max(1, Math.round(picture.naturalWidth * scale));
    canvas.height = Math.max(1, Math.round(picture.naturalHeight * scale));
    const image = overlay(values, maps.width, maps.height, canvas.width, canvas.height);
    canvas.getContext("2d").putImageData(image, 0, 0);
  };

  const single = (index) => maps.values.subarray(index * maps.area, (index + 1) * maps.area);

  const lay = (index) => {
    paint(layer, index === null ? maps.sum : single(index), 320);
    part("caption").textContent = index === null
      ? `The sum of ${maps.count} attention ${maps.count === 1 ? "map" : "maps"}. Brighter means more attention; attention at or below the average is transparent.`
      : `Map ${index + 1} of ${maps.count}, alone.`;
  };

  const draw = ({ maps: found }) => {
    if (!found) return;
    const [count, height, width] = found.shape;
    const area = height * width;
    maps = { values: found.values, count, height, width, area, sum: new Float32Array(area) };
    found.values.forEach((value, place) => (maps.sum[place % area] += value));
    part("maps").replaceChildren(
      ...Array.from({ length: count }, (_, index) => {
        const button = document.createElement("button");
        button.type = "button";
        button.tabIndex = index ? -1 : 0;
        button.setAttribute("aria-label", `Map ${index + 1} of ${count}`);
        const [below, above] = [0, 1].map(() => button.appendChild(document.createElement("canvas")));
        paint(above, single(index), 96);
        [below.width, below.height] = [above.width, above.height];
        below.getContext("2d").drawImage(picture, 0, 0, below.width, below.height);
        return button;
      }),
    );
    lay(null);
  };

  // Tab stops once in the group; the arrow keys move within it.
  const group = part("maps") ?? document.createElement("div"); // a model can have no attention
  const at = (event) => [...group.children].indexOf(event.target.closest("button"));
  group.addEventListener("mouseover", (event) => at(event) >= 0 && lay(at(event)));
  group.addEventListener("focusin", (event) => lay(at(event)));
  group.addEventListener("mouseleave", () => lay(null));
  group.addEventListener("focusout", () => lay(null));
  group.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return lay(null);
    const columns = getComputedStyle(group).gridTemplateColumns.split(" ").length;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const next = group.children[at(event) + steps[event.key]];
    if (!next) return;
    [...group.children].forEach((button) => (button.tabIndex = -1));
    next.tabIndex = 0;
    next.focus();
  });
  part("opacity")?.addEventListener("input", ({ target }) => (layer.style.opacity = target.value / 100));

  // --- where images come from ---

  const take = (files) => files.length && show(files[0], files[0].name || "from the clipboard");
  for (const input of document.querySelectorAll("input[type=file]")) {
    input.addEventListener("change", () => {
      take([...input.files]);
      input.value = ""; // so that the same file can be chosen again
    });
  }
  for (const button of document.querySelectorAll("#examples button")) {
    button.addEventListener("click", () => {
      const [kind, text] = button.querySelector("img").src.split(";base64,");
      const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
      show(new Blob([bytes], { type: kind.slice(5) }), button.textContent.trim());
    });
  }
  document.addEventListener("paste", (event) => take([...event.clipboardData.files]));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    part("drop").classList.add("over");
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget || part("drop").classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    part("drop").classList.remove("over");
    take([...event.dataTransfer.files]);
  });

  loaded.catch((error) => {
    say(`The model could not be loaded: ${error.message} Use a newer browser.`);
  });
})();
