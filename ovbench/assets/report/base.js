const find = (selector, within = document) => within.querySelector(selector);

/* An element; text is always set as text. Attributes that are functions become listeners, booleans properties. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (typeof value === "boolean") element[name] = value;
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const documents = (id) => JSON.parse(document.getElementById(id).textContent);
const percent = (value, digits = 2) => (value === null ? "–" : (100 * value).toFixed(digits));
const signed = (value, digits = 2) => (value === null ? "–" : (value > 0 ? "+" : "") + percent(value, digits));
const minus = (a, b) => (a === null || b === null || b === undefined ? null : a - b);
const whole = (value) => value.toLocaleString("en-US");

/* The photograph of an image as a data URL, from the element with its input. */
const photos = new Map();
function photoOf(element) {
  if (!photos.has(element)) photos.set(element, `data:image/jpeg;base64,${documents(element).image}`);
  return photos.get(element);
}

/* The bytes of a packed array: base64 of deflated data. */
async function unpack(text) {
  const raw = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

/* What is open: a run with its cells unpacked. A cell is a count of pixels of one true and one predicted class. */
async function openRun(element) {
  const run = documents(element);
  run.element = element;
  const buffer = await unpack(run.images.cells);
  const images = run.images.ids.length;
  run.starts = new Uint32Array(buffer, 0, images + 1);
  const cells = run.starts[images];
  const after = 4 * (images + 1);
  run.pixels = new Uint32Array(buffer, after, cells);
  run.labels = new Uint16Array(buffer, after + 4 * cells, cells);
  run.guesses = new Uint16Array(buffer, after + 6 * cells, cells);
  return run;
}

const OUTSIDE = "(none of the classes)";
const className = (run, number) => (number < run.classes.length ? run.classes[number] : OUTSIDE);

/* A class by its name, with its colour; the name may be a button. */
function named(run, number, name = className(run, number)) {
  return make("span", { class: "named" }, swatch(run, number), name);
}

const sameClasses = (a, b) => a.classes.join("\n") === b.classes.join("\n");

function swatch(run, number) {
  const element = make("span", { class: "swatch", "aria-hidden": "true" });
  element.style.background = number < run.classes.length ? run.colours[number] : "transparent";
  return element;
}

/* A bar from 0 to 1 with its interval, for the eye; the numbers stand beside it. */
function bar(value, low = null, high = null) {
  const element = make("div", { class: "bar", "aria-hidden": "true" });
  const part = make("i");
  part.style.width = `${100 * (value ?? 0)}%`;
  element.append(part);
  if (low !== null && high !== null) {
    const whisker = make("b");
    whisker.style.left = `${100 * low}%`;
    whisker.style.width = `max(${100 * (high - low)}%, 2px)`;
    element.append(whisker);
  }
  return element;
}
