// @ts-check
// Amounts arrive as decimal text because they exceed what a number can hold; they stay BigInt until they are words.

const MIB = 1048576n;

/** Tokens with two decimals and a sign: 1 token = 1 MiB. @param {string | bigint} text */
export function tokens(text) {
  const bytes = BigInt(text);
  const size = bytes < 0n ? -bytes : bytes;
  const hundredths = (size * 100n) / MIB;
  const sign = hundredths === 0n ? "" : bytes < 0n ? "−" : "+";
  return `${sign}${hundredths / 100n}.${String(hundredths % 100n).padStart(2, "0")}`;
}

/** Bytes with a binary prefix. @param {string | bigint} text */
export function bytes(text) {
  let amount = BigInt(text);
  if (amount < 1024n) return `${amount} B`;
  const units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
  let unit = 0;
  let tenths = (amount * 10n) / 1024n;
  while (tenths >= 10240n && unit + 1 < units.length) {
    tenths /= 1024n;
    unit += 1;
  }
  return `${tenths / 10n}.${tenths % 10n} ${units[unit]}`;
}

/** @param {string | bigint} text */
export function rate(text) {
  return `${bytes(text)}/s`;
}

/** Share of a whole in percent, as text. @param {string} part @param {string} whole */
export function percent(part, whole) {
  const all = BigInt(whole);
  return all === 0n ? "0 %" : `${(BigInt(part) * 100n) / all} %`;
}

/** The end of a key: its start is the same for all. @param {string} key */
export function shortKey(key) {
  return key.slice(-8);
}

/** Hours, minutes, seconds of a moment in RFC 3339. @param {string} at */
export function clock(at) {
  return at.slice(11, 19);
}
