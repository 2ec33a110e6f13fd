"use strict";
// The status page: reads status.json each second and shows what has happened between two readings.
// Everything that comes from outside (callers' names, addresses, errors) becomes text, never HTML.

const EVERY_MS = 1000;
const KEPT = 121; // readings: two minutes
const LANES = ["forwarded", "batched", "cached"];
const readings = [];
const spot = (id) => document.getElementById(id);

function shown(number) {
  if (number === null || number === undefined || !Number.isFinite(number)) return "–";
  if (number >= 1e6) return (number / 1e6).toFixed(2) + " M";
  if (number >= 100 || Number.isInteger(number)) return Math.round(number).toLocaleString("en");
  return number.toFixed(number >= 10 ? 1 : 2);
}

function seconds(time) {
  if (!Number.isFinite(time)) return "–";
  if (time < 1e-3) return shown(time * 1e6) + " µs";
  if (time < 1) return shown(time * 1e3) + " ms";
  if (time < 120) return shown(time) + " s";
  const minutes = Math.floor(time / 60), hours = Math.floor(minutes / 60), days = Math.floor(hours / 24);
  if (hours < 1) return minutes + " min";
  return days < 1 ? `${hours} h ${minutes % 60} min` : `${days} d ${hours % 24} h`;
}

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; bytes >= 1024 && unit < units.length - 1; unit++) bytes /= 1024;
  return `${shown(bytes)} ${units[unit]}`;
}

// The oldest reading that is at most so many seconds old. In the beginning it is the newest itself: nothing to compare.
function before(age) {
  const newest = readings[readings.length - 1];
  return readings.find((reading) => newest.monotonic_s - reading.monotonic_s <= age + 0.5);
}

const total = (counts) => counts.reduce((sum, count) => sum + count, 0);

function make(tag, text, name) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (name) element.className = name;
  return element;
}

function rows(id, made, columns) {
  if (!made.length) {
    const row = make("tr"), cell = make("td", "none", "none");
    cell.colSpan = columns;
    row.append(cell);
    made = [row];
  }
  spot(id).replaceChildren(...made);
}

// A table of names and counts, each with a bar.
function bars(id, pairs) {
  const most = Math.max(1e-9, ...pairs.map((pair) => pair[1]));
  rows(id, pairs.map(([name, count]) => {
    const row = make("tr"), head = make("th", name), bar = make("td"), meter = make("meter");
    head.scope = "row";
    meter.max = most;
    meter.value = count;
    bar.setAttribute("aria-hidden", "true");
    bar.append(meter);
    row.append(head, bar, make("td", shown(count), "number"));
    return row;
  }), 3);
}

const counted = (counts) => Object.entries(counts).filter((pair) => pair[1]).sort((a, b) => b[1] - a[1]);

// Of a histogram: what was counted since an older reading, from the first bound that counted to the last.
function buckets(now, then, label) {
  const grown = now.counts.map((count, place) => count - then.counts[place]);
  const used = grown.map((count, place) => count ? place : -1).filter((place) => place >= 0);
  if (!used.length) return [];
  const pairs = [];
  for (let place = used[0]; place <= used[used.length - 1]; place++) {
    const over = place === now.bounds.length;
    const low = place ? now.bounds[place - 1] : 0;
    pairs.push([over ? "more than " + label(low, low) : label(now.bounds[place], low), grown[place]]);
  }
  return pairs;
}

function mean(now, then) {
  const count = total(now.counts) - total(then.counts);
  return count ? (now.sum - then.sum) / count : NaN;
}

function tiles(now) {
  const then = before(10), time = now.monotonic_s - then.monotonic_s;
  const rate = (lane) => (now.lanes[lane] - then.lanes[lane]) / time;
  spot("throughput").textContent = shown(LANES.reduce((sum, lane) => sum + rate(lane), 0));
  spot("batched").textContent = shown(rate("batched"));
  spot("batch-size").textContent = shown(mean(now.batches.size, then.batches.size));
  spot("aggregation").textContent = shown(now.batches.aggregation);
  spot("wait").textContent = shown(1000 * mean(now.batches.wait_s, then.batches.wait_s));
  spot("pending").textContent = shown(now.pending);
  spot("lanes").replaceChildren(...LANES.map((lane) => {
    const item = make("li"), svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const square = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    square.setAttribute("width", "100%");
    square.setAttribute("height", "100%");
    square.setAttribute("class", lane);
    svg.setAttribute("aria-hidden", "true");
    svg.append(square);
    item.append(svg, ` ${lane}: ${shown(rate(lane))}/s, ${shown(now.lanes[lane])} in all`);
    return item;
  }));
}

function cache(now) {
  const {hits, misses, entries, bytes, max_bytes, verified} = now.cache;
  spot("cache-none").hidden = Boolean(hits + misses);
  spot("cache").hidden = !(hits + misses);
  const then = before(10), time = now.monotonic_s - then.monotonic_s;
  const [hit, missed] = [hits - then.cache.hits, misses - then.cache.misses];
  spot("hit-ratio").textContent = hit + missed ? shown(100 * hit / (hit + missed)) + " %" : "–";
  spot("hits").textContent = shown(hit / time);
  spot("misses").textContent = shown(missed / time);
  spot("entries").textContent = shown(entries);
  spot("bytes").textContent = size(bytes);
  spot("max-bytes").textContent = size(max_bytes);
  spot("memory").max = Math.max(1, max_bytes);
  spot("memory").value = bytes;
  bars("answers", counted({
    "given while stale": now.cache.stale,
    "refreshed": now.cache.refreshes,
    "purged": now.cache.purges,
    "evicted": now.cache.evictions,
    ...Object.fromEntries(Object.entries(verified).map(([result, count]) => ["verified: " + result, count])),
  }));
}

function chart() {
  const newest = readings[readings.length - 1], points = [];
  for (let place = 1; place < readings.length; place++) {
    const [then, now] = [readings[place - 1], readings[place]];
    const time = now.monotonic_s - then.monotonic_s;
    const age = newest.monotonic_s - now.monotonic_s;
    if (time > 0 && age <= 120) {
      points.push({x: 600 - age * 5, rates: LANES.map((lane) => (now.lanes[lane] - then.lanes[lane]) / time)});
    }
  }
  const peak = Math.max(1, ...points.map((point) => total(point.rates)));
  const low = points.map(() => 0);
  const shapes = LANES.map((lane, number) => {
    const shape = document.createElementNS("http://www.w3.org/2000/svg", "polygon");
    const bottom = points.map((point, place) => `${point.x},${160 - 155 * low[place] / peak}`);
    points.forEach((point, place) => { low[place] += point.rates[number]; });
    const top = points.map((point, place) => `${point.x},${160 - 155 * low[place] / peak}`);
    shape.setAttribute("points", [...top, ...bottom.reverse()].join(" "));
    shape.setAttribute("class", lane);
    return shape;
  });
  spot("chart").replaceChildren(...shapes);
  spot("peak").textContent = points.length ? `highest: ${shown(peak)}/s` : "";
}

function table(id, lines, columns) {
  rows(id, lines.map((cells) => {
    const row = make("tr");
    cells.forEach((cell, place) => {
      if (cell instanceof Node) return row.append(cell);
      const element = make(place ? "td" : "th", cell.text ?? cell, cell.number ? "number" : "");
      if (!place) element.scope = "row";
      row.append(element);
    });
    return row;
  }), columns);
}

const number = (text) => ({text, number: true});

function servers(now) {
  const then = before(10), time = now.monotonic_s - then.monotonic_s;
  table("servers", now.servers.map((server) => {
    const old = then.servers.find((other) => other.name === server.name && other.address === server.address);
    const rate = (key) => number(shown(old ? (server[key] - old[key]) / time : NaN));
    const health = make("td", "not tried yet", "none");
    if (server.healthy === true) [health.textContent, health.className] = ["answers", "good"];
    if (server.healthy === false) [health.textContent, health.className] = ["down: " + server.problem, "bad"];
    return [server.name, server.address, health, number(shown(server.connections)), rate("statements"), rate("batches")];
  }), 6);
}

function callers(now) {
  table("callers", now.callers.map((caller) => [
    caller.file || caller.line ? `${caller.file}:${caller.line}` : "(no file and line)",
    caller.query_type,
    number(shown(caller.statements)),
    number(shown(caller.batched)),
    number(shown(caller.cached)),
    number(seconds(caller.seconds / caller.timed)),
    number(seconds(caller.seconds)),
    number(shown(100 * caller.seconds / now.hinted_s) + " %"),
  ]), 8);
}

function show(now) {
  const minute = before(60);
  spot("version").textContent = now.version;
  spot("uptime").textContent = seconds(now.uptime_s);
  tiles(now);
  chart();
  cache(now);
  bars("sizes", buckets(now.batches.size, minute.batches.size,
    (bound, low) => bound === low + 1 || bound === low ? `${bound}` : `${low + 1} to ${bound}`));
  bars("waits", buckets(now.batches.wait_s, minute.batches.wait_s, (bound) => seconds(bound)));
  bars("strategies", counted(now.batches.strategies));
  bars("closed", counted(now.batches.closed));
  bars("excluded", counted(now.excluded));
  bars("clients", Object.entries(now.clients));
  servers(now);
  callers(now);
}

function said(text, name) {
  const badge = spot("live");
  if (badge.textContent !== text) [badge.textContent, badge.className] = [text, "badge " + name];
}

async function read() {
  try {
    const answer = await fetch("status.json", {cache: "no-store", signal: AbortSignal.timeout(5000)});
    if (!answer.ok) throw new Error("HTTP " + answer.status);
    const now = await answer.json();
    const last = readings[readings.length - 1];
    if (last && now.uptime_s < last.uptime_s) readings.length = 0; // it was started anew
    readings.push(now);
    if (readings.length > KEPT) readings.shift();
    show(now);
    const down = now.servers.some((server) => server.healthy === false);
    said(down ? "a server is down" : "live", down ? "bad" : "good");
  } catch (problem) {
    said("no answer from the proxy", "bad");
  }
  setTimeout(read, EVERY_MS);
}

read();
