// Keeps the overview live. Every fragment that arrives was escaped where it was rendered, on the server.
"use strict";

(() => {
  const KEEP = 50;
  const state = document.getElementById("live-state");
  const counts = document.getElementById("counts");
  const alerts = document.getElementById("alerts");
  if (!state || !counts || !alerts) return;

  const source = new EventSource("/live");

  source.addEventListener("open", () => {
    state.textContent = state.dataset.live;
    state.className = "pill good";
  });
  source.addEventListener("error", () => {
    state.textContent = state.dataset.reconnecting;
    state.className = "pill warn";
  });
  source.addEventListener("counts", (event) => {
    counts.innerHTML = event.data;
  });
  // The whole list, once after each (re)connection.
  source.addEventListener("alerts", (event) => {
    alerts.innerHTML = event.data;
  });
  source.addEventListener("alert", (event) => {
    if (event.lastEventId && document.getElementById("alert-" + event.lastEventId)) return;
    const empty = alerts.querySelector(".empty");
    if (empty) empty.remove();
    alerts.insertAdjacentHTML("afterbegin", event.data);
    alerts.firstElementChild.classList.add("fresh");
    while (alerts.children.length > KEEP) alerts.lastElementChild.remove();
  });
})();
