// @ts-check
// Templates that cannot be injected into: every value is escaped unless it is itself a template.

const ESCAPES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };

/** A piece of markup whose values are escaped already. */
export class Markup {
  /** @param {string} text */
  constructor(text) {
    this.text = text;
  }
}

/** @param {unknown} value @returns {string} */
export function escape(value) {
  if (value instanceof Markup) return value.text;
  if (Array.isArray(value)) return value.map(escape).join("");
  if (value === null || value === undefined || value === false) return "";
  return String(value).replace(/[&<>"']/g, (sign) => ESCAPES[sign]);
}

/**
 * html`<td>${name}</td>`: names of peers, files and torrents are hostile text and stay text.
 * @param {TemplateStringsArray} parts @param {...unknown} values
 */
export function html(parts, ...values) {
  return new Markup(parts.reduce((text, part, at) => text + escape(values[at - 1]) + part));
}

/** Puts markup into an element, and leaves the element alone if nothing changed.
 * @param {Element} element @param {Markup} markup */
export function render(element, markup) {
  if (rendered.get(element) === markup.text) return;
  rendered.set(element, markup.text);
  const template = document.createElement("template");
  template.innerHTML = markup.text;
  element.replaceChildren(template.content);
}

/** @type {WeakMap<Element, string>} */
const rendered = new WeakMap();
