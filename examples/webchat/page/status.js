// The status page shows the server's snapshots, one a second.

import { Chart, within } from "./chart.js";
import { bytes, count, duration, roundBytes, roundCount } from "./units.js";

const $ = (id) => document.getElementById(id);

const rates = new Chart($("rates"), $("rates-legend"), {
  series: [
    { name: "accepted", css: "plain", of: (p) => p.accepted },
    { name: "written", css: "accent", of: (p) => p.written },
    { name: "lost", css: "bad", of: (p) => p.lost },
  ],
  ceiling: roundCount,
  label: count,
});
const waiting = new Chart($("waiting"), $("waiting-legend"), {
  series: [{ name: "waiting", css: "accent", of: (p) => p.pendingBytes }],
  ceiling: roundBytes,
  label: bytes,
});

let last; // the last snapshot
let points = []; // for the charts

function tell(now) {
  // If the count or the time went back, the server was restarted.
  if (last && (now.accepted < last.accepted || now.time <= last.time)) {
    last = undefined;
    points = [];
  }
  if (last) {
    const seconds = (now.time - last.time) / 1000;
    const rate = (...of) => of.reduce((sum, name) => sum + now[name] - last[name], 0) / seconds;
    points = within([...points, {
      time: now.time,
      accepted: rate("accepted"),
      written: rate("written"),
      lost: rate("dropped", "undelivered"),
      pendingBytes: now.pendingBytes,
    }]);
  }
  last = now;
  rates.show(points);
  waiting.show(points);

  $("demo").hidden = !now.demo;
  $("connections").textContent = count(now.connections);
  $("away").textContent = count(now.away);
  $("names").textContent = count(now.names);
  $("rooms").textContent = count(now.rooms);
  $("pending").textContent = bytes(now.pendingBytes);
  $("oldest").textContent = duration(now.oldestMillis);
  showBacklogs(now.backlogs ?? [], now.stalled ?? []);
  showEnds(now.ends);
}

// showBacklogs keeps the bar of a name, so that it grows and does not jump.
function showBacklogs(backlogs, stalled) {
  const list = $("backlogs");
  const old = new Map([...list.children].map((item) => [item.dataset.name, item]));
  const most = Math.max(...backlogs.map((b) => b.peakBytes));
  list.replaceChildren(...backlogs.map((backlog) => {
    const item = old.get(backlog.name) ?? newBacklog(backlog.name);
    const of = backlog.maxPending || most;
    const part = (n) => `${Math.min(100, (100 * n) / of)}%`;
    item.querySelector(".bar i").style.width = part(backlog.pendingBytes);
    item.querySelector(".bar u").style.left = part(backlog.peakBytes);
    item.querySelector(".stalled").hidden = !stalled.includes(backlog.name);
    item.querySelector(".away").hidden = !backlog.away;
    const limit = backlog.maxPending ? ` of ${bytes(backlog.maxPending)}` : "";
    item.querySelector(".size").textContent = `${bytes(backlog.pendingBytes)}${limit}`;
    item.querySelector(".hint").textContent =
      `${count(backlog.pendingMessages)} messages, the oldest for ${duration(backlog.oldestMillis)}`;
    return item;
  }));
  $("no-backlogs").hidden = backlogs.length > 0;
}

function newBacklog(name) {
  const item = $("backlog").content.firstElementChild.cloneNode(true);
  item.dataset.name = name;
  item.querySelector(".name").textContent = name;
  return item;
}

function showEnds(ends) {
  const most = Math.max(1, ...Object.values(ends));
  for (const [cause, times] of Object.entries(ends)) {
    $(cause).cells[1].textContent = count(times);
    $(cause).querySelector("i").style.width = `${(100 * times) / most}%`;
  }
}

function tellLink(text, bad) {
  $("link").textContent = text;
  $("link").classList.toggle("bad", bad);
}

function listen() {
  const source = new EventSource("/status/events");
  source.onopen = () => tellLink("Live", false);
  source.onmessage = ({ data }) => tell(JSON.parse(data));
  source.onerror = () => {
    tellLink("Connection lost, trying again…", true);
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 3_000); // otherwise it tries again by itself
  };
}

listen();
