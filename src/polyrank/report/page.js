// Draws every figure from the JSON beside it, and lets a legend's button hide one method in all figures.
const plots = [...document.querySelectorAll(".plot")];
const coarse = matchMedia("(pointer: coarse)").matches;

for (const plot of plots) {
  const {data, layout} = JSON.parse(document.getElementById(`${plot.id}-data`).textContent);
  if (coarse) layout.dragmode = false; // a finger on a plot scrolls the page
  Plotly.newPlot(plot, data, layout, {displayModeBar: false});
  new ResizeObserver(() => Plotly.Plots.resize(plot)).observe(plot);
}

for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => {
    const name = button.dataset.group;
    const shown = button.getAttribute("aria-pressed") === "false";
    for (const other of document.querySelectorAll(".legend button"))
      if (other.dataset.group === name) other.setAttribute("aria-pressed", shown);
    for (const plot of plots) {
      const traces = plot.data.flatMap((trace, i) => (trace.legendgroup === name ? [i] : []));
      if (traces.length) Plotly.restyle(plot, {visible: shown}, traces);
    }
  });
}

// Paper is narrower than a window: plots are drawn anew for it, and for the window afterwards. In CSS pixels of A4.
const COLUMN = 320, PAGE = 660;
addEventListener("beforeprint", () =>
  plots.forEach(plot => Plotly.relayout(plot, {width: plot.closest(".wide") ? PAGE : COLUMN})));
addEventListener("afterprint", () => plots.forEach(plot => Plotly.relayout(plot, {width: null, autosize: true})));
