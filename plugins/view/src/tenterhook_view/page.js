// The script of a page of activations. It fetches nothing and makes markup of no text: what it
// writes goes through textContent, and what it reads is JSON that stands in the page.
//
// Without it the page says the same for its first quantity. With it one chooses what tokens are
// coloured by, and reads numbers: with the pointer, by a click, or with the arrow keys.
"use strict";

const LEVELS = 10, SIDES = 4, NO_NUMBER = 65535;

/** Unpack 16-bit numbers, the lower byte first. */
function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Array.from({ length: bytes.length / 2 }, (_, at) => view.getUint16(2 * at, true));
}

/** Return the number of a token; NaN where it is not finite. */
function valueAt(series, at) {
  series.numbers ??= unpack(series.values);
  const step = series.numbers[at];
  return step === NO_NUMBER ? NaN : series.least + (series.room * step) / (NO_NUMBER - 1);
}

/** Return the class of a number's colour, as the markup was made with. */
function colourOf(series, value) {
  if (Number.isNaN(value)) return "sx";
  const steps = series.signed ? 2 * SIDES + 1 : LEVELS;
  const room = series.high - series.low;
  const none = series.signed ? 0.5 : 0;
  const share = room > 0 ? Math.min(1, Math.max(0, (value - series.low) / room)) : none;
  return (series.signed ? "d" : "s") + Math.min(steps - 1, Math.floor(share * steps));
}

function shown(value) {
  return Number.isNaN(value) ? "not finite" : String(Number(value.toPrecision(4)));
}

function labelOf(series) {
  return series.layer ? `${series.name} at ${series.layer}` : series.name;
}

/** Let one of some things be read at a time: by pointer, click, or arrow keys in its container. */
function readable(container, items, read, columns) {
  let here = -1;
  const moveTo = (at) => {
    if (at < 0 || at >= items.length) return;
    if (here >= 0) items[here].classList.remove("here");
    here = at;
    items[here].classList.add("here");
    items[here].scrollIntoView({ block: "nearest", inline: "nearest" });
    read(here);
  };
  const places = new Map(items.map((item, at) => [item, at]));
  const placeOf = (event) => places.get(event.target.closest("span, td")) ?? -1;
  container.addEventListener("click", (event) => moveTo(placeOf(event)));
  container.addEventListener("mouseover", (event) => {
    const at = placeOf(event);
    if (at >= 0) read(at);
  });
  container.addEventListener("keydown", (event) => {
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns || 10, ArrowUp: -(columns || 10) };
    const ends = { Home: 0, End: items.length - 1 };
    if (event.key in ends) moveTo(ends[event.key]);
    else if (event.key in steps) moveTo(here < 0 ? 0 : here + steps[event.key]);
    else return;
    event.preventDefault();
  });
}

/** Tokens that are coloured by a series, which is chosen by name and layer. */
function tokensPart(section, data) {
  const spans = [...section.querySelectorAll(".text span")];
  const [what, where] = section.querySelectorAll("select");
  const status = section.querySelector(".status");
  const ends = section.querySelectorAll(".legend output");
  let series = data.series[0];

  const colour = () => {
    const wanted = data.series.filter((each) => each.name === what.value);
    series = wanted.find((each) => each.layer === where.value) ?? wanted[0];
    where.value = series.layer;
    spans.forEach((span, at) => {
      span.className = colourOf(series, valueAt(series, at));
    });
    ends[0].textContent = shown(series.low);
    ends[1].textContent = shown(series.high);
  };
  const read = (at) => {
    const others = data.series.filter((each) => each.name === series.name);
    const values = others.map((each) => `${each.layer || each.name} ${shown(valueAt(each, at))}`);
    const place = data.places ? `, ${data.places[at]}` : "";
    status.textContent = `“${spans[at].textContent}”${place}: ${series.name} ${values.join(", ")}`;
  };
  what.addEventListener("change", colour);
  where.addEventListener("change", colour);
  let first = 0;
  for (const text of section.querySelectorAll(".text")) {
    const mine = [...text.querySelectorAll("span")];
    const begin = first;
    readable(text, mine, (at) => read(begin + at));
    first += mine.length;
  }
}

/** A grid of cells, each of which has a sentence that is read. */
function cellsPart(section, data) {
  const status = section.querySelector(".status");
  const cells = [...section.querySelectorAll("td")];
  const columns = section.querySelector("tbody tr")?.querySelectorAll("td").length;
  readable(section.querySelector("table"), cells, (at) => {
    status.textContent = data.says[at];
  }, columns);
}

/** Attention of one head: choose a token, and the others show how much it attends to them. */
function attentionPart(section, data) {
  const spans = [...section.querySelectorAll(".text span")];
  const select = section.querySelector("select");
  const status = section.querySelector(".status");
  const heads = data.heads.map((text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)));
  let here = spans.length - 1;
  const weight = (from, to) => heads[select.selectedIndex][(from * (from + 1)) / 2 + to] / 255;

  const show = (from) => {
    here = from;
    const best = [];
    spans.forEach((span, to) => {
      const share = to <= from ? weight(from, to) : 0;
      span.className = `s${Math.min(LEVELS - 1, Math.floor(share * LEVELS))}`;
      if (share > 0) best.push([share, to]);
    });
    spans[from].classList.add("here");
    best.sort((a, b) => b[0] - a[0]);
    const named = best.slice(0, 5).map(([share, to]) => `“${spans[to].textContent}” ${shown(share)}`);
    status.textContent = `“${spans[from].textContent}” (token ${from}) attends to ${named.join(", ")}`;
  };
  select.addEventListener("change", () => show(here));
  readable(section.querySelector(".text"), spans, show);
  show(here);
}

const KINDS = { tokens: tokensPart, cells: cellsPart, attention: attentionPart };

for (const section of document.querySelectorAll("section[data-kind]")) {
  const data = section.querySelector('script[type="application/json"]');
  const begin = KINDS[section.dataset.kind];
  if (begin && data) begin(section, JSON.parse(data.textContent));
}
