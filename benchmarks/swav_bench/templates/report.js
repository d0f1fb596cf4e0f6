// Hides what an unticked box stands for. The page is complete without it.
(() => {
  const form = document.getElementById("filters");
  if (!form) return;
  const marked = [...document.querySelectorAll("[data-keys]")];
  const series = [...document.querySelectorAll("[data-series]")];
  const legend = [...document.querySelector(".legend:has(li[data-keys])")?.querySelectorAll("li[data-keys]") ?? []];
  const rows = [...document.querySelectorAll("[data-row]")];
  const update = () => {
    const off = new Set([...form.querySelectorAll("input:not(:checked)")].map((box) => box.value));
    const hidden = (element) => element.dataset.keys.split(" ").some((key) => off.has(key));
    for (const element of marked) element.toggleAttribute("data-off", hidden(element));
    for (const group of series) group.toggleAttribute("data-off", hidden(legend[Number(group.dataset.series)]));
    const left = rows.filter((row) => !hidden(row)).length;
    document.getElementById("shown").textContent = `${left} of ${rows.length} rows shown`;
  };
  form.addEventListener("change", update);
  form.addEventListener("reset", () => setTimeout(update));
  form.hidden = false;
  update();
})();
