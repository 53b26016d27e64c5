// The page "Try it": choices in, pictures out. All arithmetic is aggregate.js's.
(() => {
  const place = document.getElementById("try");
  if (!place) return;
  const NAMES = ["ann", "bob", "cem", "dee", "eve"];
  const SVG = "http://www.w3.org/2000/svg";
  const state = { ranks: [20, 5, 5, 5, 5], weights: [1, 1, 1, 1, 1], method: "zero_padding", gamma: 0.5, seed: 1 };

  function made(kind, attributes = {}, ...children) {
    const found = document.createElement(kind);
    for (const [name, value] of Object.entries(attributes)) found.setAttribute(name, value);
    found.append(...children);
    return found;
  }

  function drawn(kind, attributes, text) {
    const found = document.createElementNS(SVG, kind);
    for (const [name, value] of Object.entries(attributes)) found.setAttribute(name, value);
    if (text !== undefined) found.textContent = text;
    return found;
  }

  function slider(label, about, least, most, step, value, changed) {
    const shown = made("output", {}, String(value));
    const input = made("input", { type: "range", min: least, max: most, step, value, "aria-label": about });
    input.addEventListener("input", () => {
      shown.value = input.value;
      changed(Number(input.value));
      show();
    });
    return made("label", {}, made("span", {}, label), input, shown);
  }

  const chosen = made("select", { "aria-label": "method" }, ...PolyRank.METHODS.map(name => made("option", {}, name)));
  chosen.value = state.method;
  chosen.addEventListener("change", () => { state.method = chosen.value; show(); });
  const gamma = slider("gamma", "gamma of tempered", 0, 1, 0.05, state.gamma, value => { state.gamma = value; });
  const again = made("button", { type: "button", class: "md-button" }, "Other clients");
  again.addEventListener("click", () => { state.seed += 1; show(); });

  const said = made("div", { "aria-live": "polite" });
  const rows = made("figure"), products = made("figure"), table = made("div");
  const controls = [
    made("fieldset", {}, made("legend", {}, "Ranks"), ...NAMES.map((name, k) =>
      slider(name, `rank of ${name}`, 1, PolyRank.TOP, 1, state.ranks[k], value => { state.ranks[k] = value; }))),
    made("fieldset", {}, made("legend", {}, "Weights"), ...NAMES.map((name, k) =>
      slider(name, `weight of ${name}`, 1, 10, 1, state.weights[k], value => { state.weights[k] = value; }))),
    made("fieldset", {}, made("legend", {}, "Method"), chosen, gamma, again, said),
  ];
  place.classList.add("pr-panel");
  place.replaceChildren(...controls, rows, products, table);

  // Who owns each rank index, and what it holds beside the mean of its owners.
  function rowPicture(round, found) {
    const kept = PolyRank.energy(found), full = PolyRank.energy(PolyRank.aggregate("owner_mean", round));
    const cell = 15, left = 64, bottom = 16 * NAMES.length + 6, bars = 90;
    const size = { viewBox: `0 0 ${left + cell * PolyRank.TOP + 4} ${bottom + bars + 26}`, role: "img" };
    const picture = drawn("svg", { ...size, "aria-label": "Owners of the rank indices, and what is left in each" });
    NAMES.forEach((name, k) => {
      picture.append(drawn("text", { x: 0, y: 16 * k + 11 }, `${name}, ${state.ranks[k]}`));
      for (let j = 0; j < PolyRank.TOP; j++) {
        const owns = j < state.ranks[k];
        picture.append(drawn("rect", {
          x: left + cell * j + 1, y: 16 * k, width: cell - 2, height: 13, stroke: "var(--pr-gone)",
          fill: owns ? "var(--pr-own)" : "none", "fill-opacity": 0.35 + 0.065 * state.weights[k],
        }));
      }
    });
    picture.append(drawn("text", { x: 0, y: bottom + 20 }, "100 %"), drawn("text", { x: 0, y: bottom + bars + 8 }, "0 %"));
    const owned = full.map(value => value > 0);
    kept.forEach((value, j) => {
      const share = owned[j] ? value / full[j] : 0, height = Math.min(1.15, share) * (bars - 12);
      picture.append(drawn("rect", {
        x: left + cell * j + 1, y: bottom + bars + 4 - height, width: cell - 2, height, fill: "var(--pr-fill)",
      }));
      picture.append(drawn("text", { x: left + cell * j + cell / 2, y: bottom + bars + 18, "text-anchor": "middle" }, j + 1));
    });
    const line = bottom + bars + 4 - (bars - 12);
    picture.append(drawn("path", { d: `M${left} ${line}h${cell * PolyRank.TOP}`, stroke: "var(--pr-line)", "stroke-dasharray": "3 3" }));
    const about = "Above: who owns which rank index; darker is heavier. Below: the energy of each rank index in the new "
      + "adapter, beside that of its owners' mean" + (state.method === "flexlora" ? " (flexlora sorts them anew by energy)." : ".");
    rows.replaceChildren(picture, made("figcaption", {}, about));
  }

  // The mean of the clients' products, the method's product, and the difference, in the same colours.
  function productPicture(round, found) {
    const wanted = PolyRank.target(round), is = PolyRank.delta(found);
    const off = is.map((row, i) => row.map((value, j) => value - wanted[i][j]));
    const largest = Math.max(...wanted.flat().map(Math.abs)), cell = 4, gap = 14;
    const width = cell * wanted[0].length, height = cell * wanted.length;
    const picture = drawn("svg", {
      viewBox: `0 0 ${3 * width + 2 * gap} ${height + 14}`, role: "img",
      "aria-label": "Mean of the products, the method's product, and the difference",
    });
    [["mean of the products", wanted], [state.method, is], ["difference", off]].forEach(([name, values], at) => {
      const x = at * (width + gap);
      picture.append(drawn("text", { x, y: 9 }, name));
      values.forEach((row, i) => row.forEach((value, j) => picture.append(drawn("rect", {
        x: x + cell * j, y: 14 + cell * i, width: cell, height: cell,
        fill: value < 0 ? "var(--pr-fill)" : "var(--pr-own)",
        "fill-opacity": Math.min(1, Math.abs(value) / largest).toFixed(3),
      }))));
    });
    products.replaceChildren(picture, made("figcaption", {}, "One layer, 20 x 24. Green is above zero, orange below."));
  }

  // Of the rank indices that not everybody owns: their products beside those of their owners' mean.
  function left(round, found) {
    const lowest = Math.min(...state.ranks);
    if (state.method === "flexlora" || lowest === Math.max(...state.ranks)) return "-";
    const size = factors => PolyRank.energy(factors).slice(lowest).reduce((sum, value) => sum + value, 0);
    return `${(100 * Math.sqrt(size(found) / size(PolyRank.aggregate("owner_mean", round)))).toFixed(1)} %`;
  }

  function show() {
    const round = PolyRank.example(state.ranks, state.weights, state.seed);
    const options = { gamma: state.gamma };
    const all = PolyRank.METHODS.map(name => {
      try {
        const found = PolyRank.aggregate(name, round, options);
        return { name, found, error: PolyRank.error(round, found) };
      } catch (error) {
        return { name, said: error.message };
      }
    });
    gamma.hidden = state.method !== "tempered";
    const { found, error, said: why } = all.find(entry => entry.name === state.method);
    const percent = value => `${(100 * value).toFixed(1)} %`;
    said.replaceChildren(...(found
      ? [
        made("div", { class: "pr-number" }, percent(error)), "off from the mean of the clients' products",
        made("div", { class: "pr-number" }, left(round, found)), "left of the rank indices that some clients lack",
      ]
      : [made("div", { class: "pr-number" }, "-"), why]));
    rows.hidden = products.hidden = !found;
    if (found) {
      rowPicture(round, found);
      productPicture(round, found);
    }
    const lines = all.map(entry => made("tr", {},
      made("td", {}, made("code", {}, entry.name)), made("td", {}, entry.found ? percent(entry.error) : entry.said)));
    const head = made("tr", {}, made("th", {}, "method"), made("th", {}, "off from the mean of the products"));
    table.replaceChildren(made("table", {}, made("thead", {}, head), made("tbody", {}, ...lines)));
  }

  show();
})();
