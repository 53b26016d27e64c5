
// Asks for the runs as they are now, and changes of the page what changed: scrolling, focus and what is open stay.
const parts = {};
let have = "", last = new Date();

const keyOf = node =>
  node.id || node.dataset?.key || node.getAttribute?.("aria-labelledby") || node.querySelector?.(":scope > .plot")?.id ||
  (node.tagName === "DETAILS" && !node.closest("li") && node.firstChild.textContent) || "";

function change(old, now) {
  if (old.isEqualNode(now)) return;
  if (old.nodeType !== Node.ELEMENT_NODE) { old.nodeValue = now.nodeValue; return; }
  if (old.matches(".plot")) { old.setAttribute("aria-label", now.getAttribute("aria-label")); return; }
  if (old.matches("script")) { // the numbers of a figure
    if (old.textContent === now.textContent) return;
    old.textContent = now.textContent;
    draw(document.getElementById(old.id.replace(/-data$/, "")));
    return;
  }
  for (const {name, value} of now.attributes)
    if (name !== "aria-pressed" && old.getAttribute(name) !== value) old.setAttribute(name, value);
  const kept = new Set();
  let at = old.firstChild;
  for (const one of [...now.childNodes]) {
    const key = keyOf(one);
    const alike = node => node.nodeName === one.nodeName && keyOf(node) === key && !kept.has(node);
    const found = at && alike(at) ? at : [...old.childNodes].find(alike);
    if (!found) { const fresh = document.importNode(one, true); old.insertBefore(fresh, at); kept.add(fresh); continue; }
    if (found === at) at = at.nextSibling; else old.insertBefore(found, at);
    kept.add(found);
    change(found, one);
  }
  for (const node of [...old.childNodes]) if (!kept.has(node)) node.remove();
}

function put(id, html) {
  if (html === undefined || parts[id] === html) return;
  parts[id] = html;
  const old = document.getElementById(id), now = old.cloneNode(false);
  now.append(...new DOMParser().parseFromString(html, "text/html").body.childNodes);
  change(old, now);
  for (const plot of old.querySelectorAll(".plot")) if (!plot.data) draw(plot);
}

function say(text, gone) {
  const line = document.getElementById("live");
  if (line.textContent !== text) line.textContent = text;
  line.classList.toggle("gone", gone);
}

async function ask() {
  if (document.hidden) return setTimeout(ask, 1000);
  let found;
  try {
    const answer = await fetch(`now?have=${have}`);
    if (!answer.ok) throw new Error(answer.status);
    found = await answer.json();
  } catch {
    say(`polyrank watch does not answer: this is as it was at ${last.toLocaleTimeString()}. Start it again, and open the address that it prints.`, true);
    return setTimeout(ask, 5000);
  }
  for (const id of ["now", "about", "report"]) put(id, found[id === "report" ? "main" : id]);
  [have, last] = [found.version, new Date()];
  document.body.dataset.asked = Number(document.body.dataset.asked || 0) + 1;
  say(found.ended ? "All runs have ended; nothing more is asked for. Load the page again to look again." : "Follows the runs by itself.", false);
  if (!found.ended) setTimeout(ask, 1000 * found.wait);
}
ask();
