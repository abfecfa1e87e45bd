// @ts-check
// The page: one snapshot, drawn at most four times a second; one event stream that says when to take the next.

import { bytes, clock, percent, rate, shortKey, tokens } from "/format.js";
import { html, render } from "/html.js";

const REDRAW_MS = 500;
const STORY_MAX = 200;

/** @type {{at: string, text: string}[]} */
const story = [];
let drawing = false;

/** @param {string} id */
function byId(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`no element ${id}`);
  return element;
}

/** A table with a heading line; says so when there is nothing to show.
 * @param {string[]} heads @param {import("/html.js").Markup[]} rows @param {string} none */
function table(heads, rows, none) {
  if (rows.length === 0) return html`<p class="none">${none}</p>`;
  return html`<table>
    <thead><tr>${heads.map((head) => html`<th scope="col">${head}</th>`)}</tr></thead>
    <tbody>${rows}</tbody>
  </table>`;
}

/** @param {any} download */
function progress(download) {
  const share = percent(download.held_bytes, download.total_bytes);
  return html`<span class="job" title="${download.name}">
    <progress max="${download.total_bytes}" value="${download.held_bytes}" aria-label="${download.name}"></progress>
    ${download.name} ${share}</span>`;
}

/** @param {any} node */
function nodeRow(node) {
  const downloads = node.downloads.filter((/** @type {any} */ one) => !one.seed);
  const mark = { up: "● running", down: "○ stopped", forked: "✕ proved to have forked" }[node.state] ?? node.state;
  return html`<tr class="${node.state}">
    <th scope="row">${node.name}<small>${shortKey(node.public_key)}</small></th>
    <td>${mark}${node.uploading ? "" : html`<br>✋ gives nothing`}</td>
    <td>${downloads.map(progress)}</td>
    <td class="number">${bytes(node.given_bytes)}</td>
    <td class="number">${bytes(node.taken_bytes)}</td>
    <td class="number">${tokens(node.balance_bytes)}</td>
    <td class="number">${node.chain_length}</td>
    <td class="number">${node.peers}</td>
  </tr>`;
}

/** @param {any} one */
function transferRow(one) {
  return html`<tr><td>${one.from}</td><td>→ ${one.to}</td><td>${one.torrent}</td>
    <td class="number">${rate(one.rate_bytes)}</td><td class="number">${bytes(one.bytes)}</td><td>${one.state}</td></tr>`;
}

/** @param {any} one */
function balanceRow(one) {
  return html`<tr><td>${one.node}</td><td>${one.peer}</td><td class="number">${bytes(one.given_bytes)}</td>
    <td class="number">${bytes(one.taken_bytes)}</td><td class="number">${tokens(one.standing_bytes)}</td></tr>`;
}

/** @param {any} one */
function blockRow(one) {
  return html`<tr><td>${clock(one.at)}</td><td>${one.owner} #${one.sequence_number}</td>
    <td>${one.agreement ? "agrees with" : "proposes to"} ${one.link}</td>
    <td>${one.type}</td><td class="number">${one.amount_bytes === null ? "" : bytes(one.amount_bytes)}</td>
    <td>${one.answered ? "✓ both signed" : "… one signature"}</td></tr>`;
}

/** A circuit as a drawn path, from its owner to its end. @param {any} one */
function circuitRow(one) {
  const stops = one.path.map((/** @type {any} */ stop) =>
    html`<li class="${stop.part}"><b>${stop.name}</b><small>${stop.part}</small></li>`);
  return html`<tr><td><ol class="path" aria-label="path">${stops}</ol></td><td>${one.purpose}</td><td>${one.state}</td>
    <td class="number">${one.age_s} s</td><td class="number">${bytes(one.up_bytes)}</td>
    <td class="number">${bytes(one.down_bytes)}</td></tr>`;
}

/** What a relay and its neighbour owe each other. @param {any} one */
function payoutRow(one) {
  return html`<tr><td>${one.node}</td><td>${one.neighbour}</td><td class="number">${bytes(one.owes_us_bytes)}</td>
    <td class="number">${bytes(one.we_owe_bytes)}</td><td class="number">${bytes(one.covered_bytes)}</td>
    <td class="number">${bytes(one.received_bytes)}</td><td class="number">${bytes(one.paid_bytes)}</td>
    <td>${one.state}</td></tr>`;
}

/** How one key stands with a node, and why. @param {any} one */
function reputationRow(one) {
  const way = one.path.length > 2 ? `known through ${one.path.slice(1, -1).join(" → ")}` : "known directly";
  const doubt = one.bottleneck === null ? "" : `; ${one.bottleneck_percent} % of all ways lead over ${one.bottleneck}`;
  const why = one.forker ? "its fork is proved: it scores nothing" : `${way}, gave ${bytes(one.direct_bytes)}${doubt}`;
  return html`<tr><td>${one.node}</td><td>${one.peer}</td><td class="number">${one.score}</td><td>${why}</td></tr>`;
}

/** What lifts a refusal, in words. @param {any} one */
function wayBack(one) {
  if (one.reason === "fraud") return "none: the proof stands";
  if (one.need_bytes === null) return "";
  return `receipts for ${bytes(one.need_bytes)}, or giving it ${bytes(one.give_bytes)}`;
}

/** @param {any} one */
function refusalRow(one) {
  return html`<tr><td>${clock(one.at)}</td><td>${one.by}</td><td>${one.whom}</td><td>${one.reason}</td>
    <td>${wayBack(one)}</td></tr>`;
}

/** @param {any} view */
function draw(view) {
  document.title = `Fairshare · ${view.title}`;
  render(byId("health"), html`${view.health}`);
  render(byId("nodes"), table(
    ["Node", "State", "Downloads", "Given", "Taken", "Balance (tokens)", "Blocks", "Peers"],
    view.nodes.map(nodeRow), "no node yet"));
  render(byId("transfers"), table(
    ["From", "To", "Torrent", "Speed", "So far", "State"], view.transfers.map(transferRow), "nothing moves"));
  render(byId("balances"), table(
    ["Node", "With", "Given", "Taken", "May still take (tokens, charged)"],
    view.accounts.map(balanceRow), "nobody gave anything yet"));
  render(byId("blocks"), table(
    ["Time", "Block", "Link", "Type", "Amount", "Signatures"], view.blocks.map(blockRow), "no block yet"));
  render(byId("circuits"), table(
    ["Path", "For", "State", "Age", "Sent", "Received"], view.circuits.map(circuitRow), "no circuit stands"));
  render(byId("payouts"), table(
    ["Node", "Neighbour", "Owes it", "It owes", "Covered by IOUs", "Got, all epochs", "Paid, all epochs", "State"],
    view.payouts.map(payoutRow), "no relay is owed anything"));
  render(byId("reputation"), table(
    ["Seen from", "Peer", "Standing", "Why"], view.reputation.map(reputationRow), "nobody is known yet"));
  render(byId("refusals"), table(
    ["Time", "Provider", "Refused", "Reason", "Way back"], view.refusals.map(refusalRow), "nobody was refused"));
}

async function refresh() {
  if (drawing || document.hidden) return;
  drawing = true;
  try {
    const answer = await fetch("/api/v1/overview");
    if (answer.status === 401) {
      render(byId("health"), html`This page needs the token: open the address that the program printed.`);
      return;
    }
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const view = await answer.json();
    requestAnimationFrame(() => draw(view));
  } catch (error) {
    render(byId("health"), html`The node does not answer (${error}).`);
  } finally {
    drawing = false;
  }
}

/** What an event says to a person; empty for those that are only numbers.
 * @param {{kind: string, data: any}} event */
function words(event) {
  const data = event.data;
  switch (event.kind) {
    case "story": return data.text;
    case "download.finished": return "a download is complete: every piece verified and written";
    case "download.failed": return `a download stopped: ${data.reason}`;
    case "refused": return `refused: ${data.refusal.reason}`;
    case "fork.proved": return `proof of a fork by ${shortKey(data.proof.accused)}`;
    case "peer.banned": return `wrong data from ${data.address}: banned`;
    case "circuit.ready": return `a circuit of ${data.hops} hops stands`;
    case "hidden.peer": return "a hidden peer is at the other end of a circuit";
    case "payout.paid": return `paid ${bytes(data.bytes)} for circuits of an earlier epoch`;
    case "payout.received": return `got ${bytes(data.bytes)} for circuits of an earlier epoch`;
    case "store.failed": return `the disk did not take a block: ${data.reason}`;
    default: return "";
  }
}

/** @param {{at: string, kind: string, subject: string, data: any}} event */
function tell(event) {
  const text = words(event);
  if (!text) return;
  story.unshift({ at: event.at, text: event.subject ? `${event.subject}: ${text}` : text });
  story.length = Math.min(story.length, STORY_MAX);
  if (event.kind === "story" || !event.subject) render(byId("line"), html`${text}`);
  render(byId("story"), html`${story.map((one) => html`<li><time>${clock(one.at)}</time> ${one.text}</li>`)}`);
}

const source = new EventSource("/api/v1/events");
source.onmessage = (message) => tell(JSON.parse(message.data));
setInterval(refresh, REDRAW_MS);
document.addEventListener("visibilitychange", refresh);
refresh();
