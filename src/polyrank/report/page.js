// Draws every figure from the JSON beside it, and lets a legend's button hide one method in all figures.
const plots = () => [...document.querySelectorAll(".plot")];
const buttons = () => [...document.querySelectorAll(".legend button")];
const coarse = matchMedia("(pointer: coarse)").matches;

function draw(plot) {
  const {data, layout} = JSON.parse(document.getElementById(`${plot.id}-data`).textContent);
  const hidden = buttons().filter(button => button.getAttribute("aria-pressed") === "false").map(button => button.dataset.group);
  for (const trace of data) if (hidden.includes(trace.legendgroup)) trace.visible = false;
  if (coarse) layout.dragmode = false; // a finger on a plot scrolls the page
  layout.uirevision = "kept"; // what a reader zoomed into stays when it is drawn again
  const first = !plot.data;
  Plotly.react(plot, data, layout, {displayModeBar: false});
  if (first) new ResizeObserver(() => plot.isConnected && Plotly.Plots.resize(plot)).observe(plot);
}

plots().forEach(draw);

document.addEventListener("click", event => {
  const button = event.target.closest(".legend button");
  if (!button) return;
  const name = button.dataset.group;
  const shown = button.getAttribute("aria-pressed") === "false";
  for (const other of buttons()) if (other.dataset.group === name) other.setAttribute("aria-pressed", shown);
  for (const plot of plots()) {
    const traces = plot.data.flatMap((trace, i) => (trace.legendgroup === name ? [i] : []));
    if (traces.length) Plotly.restyle(plot, {visible: shown}, traces);
  }
});

// Paper is narrower than a window: plots are drawn anew for it, and for the window afterwards. In CSS pixels of A4.
const COLUMN = 320, PAGE = 660;
addEventListener("beforeprint", () =>
  plots().forEach(plot => Plotly.relayout(plot, {width: plot.closest(".wide") ? PAGE : COLUMN})));
addEventListener("afterprint", () => plots().forEach(plot => Plotly.relayout(plot, {width: null, autosize: true})));
