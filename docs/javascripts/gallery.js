/* The gallery: an image, its attention overlay, and each of its maps. */
(() => {
  const gallery = document.getElementById("viewer");
  if (!gallery) return;
  const part = (selector) => gallery.querySelector(selector);
  const image = part(".gallery-stage img");
  const layer = part(".gallery-stage div");
  const caption = part("figcaption");
  const slider = part("input");
  const images = part(".gallery-images");
  const maps = part(".gallery-maps");
  const COUNT = 16;
  const COLUMNS = 4;
  let chosen; // the button of the image that is shown

  const tile = (element, index) => {
    const [row, column] = [Math.floor(index / COLUMNS), index % COLUMNS];
    element.style.backgroundImage = `url(${chosen.dataset.number}-maps.webp)`;
    element.style.backgroundSize = `${COLUMNS * 100}%`;
    const step = 100 / (COLUMNS - 1);
    element.style.backgroundPosition = `${column * step}% ${row * step}%`;
  };

  // Lay one map over the image, or the sum of all.
  const show = (index) => {
    const shares = chosen.dataset.shares.split(" ").map(Number);
    const mean = Math.round(shares.reduce((sum, share) => sum + share, 0) / COUNT);
    const [which, share] = index === null
      ? [`The sum of ${COUNT} maps`, mean] : [`Map ${index + 1} of ${COUNT}`, shares[index]];
    caption.textContent = `${which}: ${share} % of its attention is on the lesion, ` +
      `which covers ${chosen.dataset.area} of the image.`;
    if (index !== null) return tile(layer, index);
    layer.style.backgroundImage = `url(${chosen.dataset.number}-sum.webp)`;
    layer.style.backgroundSize = "100%";
    layer.style.backgroundPosition = "0 0";
  };

  const choose = (button) => {
    chosen?.setAttribute("aria-pressed", "false");
    chosen = button;
    chosen.setAttribute("aria-pressed", "true");
    image.src = `${chosen.dataset.number}-image.webp`;
    image.alt = chosen.querySelector("img").alt;
    [...maps.children].forEach(tile);
    show(null);
  };

  // Tab stops once in each group; the arrow keys move within it.
  const arrows = (group, columns) => {
    const buttons = [...group.children];
    buttons.forEach((button, index) => {
      button.tabIndex = index ? -1 : 0;
    });
    group.addEventListener("keydown", (event) => {
      const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns(), ArrowUp: -columns() };
      const next = buttons[buttons.indexOf(document.activeElement) + steps[event.key]];
      if (!(event.key in steps)) return;
      event.preventDefault();
      event.stopPropagation();
      if (!next) return;
      buttons.forEach((button) => (button.tabIndex = -1));
      next.tabIndex = 0;
      next.focus();
    });
  };

  for (let index = 0; index < COUNT; index += 1) {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-label", `Map ${index + 1}`);
    button.addEventListener("mouseenter", () => show(index));
    button.addEventListener("focus", () => show(index));
    maps.append(button);
  }
  maps.addEventListener("mouseleave", () => show(null));
  maps.addEventListener("focusout", () => show(null));
  gallery.addEventListener("keydown", (event) => event.key === "Escape" && show(null));
  images.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) choose(button);
  });
  slider.addEventListener("input", () => {
    layer.style.opacity = slider.value / 100;
  });
  const columns = (group) => () => getComputedStyle(group).gridTemplateColumns.split(" ").length;
  arrows(images, columns(images));
  arrows(maps, columns(maps));
  choose(images.children[0]);
  gallery.hidden = false;
})();
