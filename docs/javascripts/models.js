/* A filter for the table of all models: the rows that contain every word of the field are shown. */
(() => {
  const table = document.querySelector("#all-models ~ table, #all-models ~ .md-typeset__scrollwrap table");
  const heading = document.getElementById("all-models");
  if (!heading || !table) return;
  const rows = [...table.tBodies[0].rows].map((row) => [row, row.textContent.toLowerCase()]);

  const box = document.createElement("div");
  box.className = "filter";
  box.innerHTML = `
    <label for="filter">Filter</label>
    <input id="filter" type="search" placeholder="resnet 224 NCHW" autocomplete="off" spellcheck="false">
    <output for="filter" aria-live="polite"></output>`;
  const [field, count] = [box.querySelector("input"), box.querySelector("output")];

  const show = () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const [row, text] of rows) {
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    count.textContent = `${shown} of ${rows.length} models`;
  };

  field.addEventListener("input", show);
  field.value = new URLSearchParams(location.search).get("filter") ?? "";  // ?q= is that of the search
  show();
  heading.insertAdjacentElement("afterend", box);
})();
