"use strict";
// Tabs as WAI-ARIA describes them: arrow keys, Home and End move between them, and the address remembers which is open.
const Tabs = {
  all: [...document.querySelectorAll("[role=tab]")],
  open(tab, focus) {
    for (const one of Tabs.all) {
      const chosen = one === tab;
      one.setAttribute("aria-selected", chosen);
      one.tabIndex = chosen ? 0 : -1;
      document.getElementById(one.getAttribute("aria-controls")).hidden = !chosen;
    }
    if (focus) tab.focus();
    history.replaceState(null, "", `#${tab.id.slice(4)}`);
  },
  start() {
    for (const tab of Tabs.all) {
      tab.addEventListener("click", () => Tabs.open(tab));
      tab.addEventListener("keydown", (event) => {
        const at = Tabs.all.indexOf(tab), count = Tabs.all.length;
        const to = { ArrowRight: (at + 1) % count, ArrowLeft: (at + count - 1) % count, Home: 0, End: count - 1 }[event.key];
        if (to === undefined) return;
        event.preventDefault();
        Tabs.open(Tabs.all[to], true);
      });
    }
    const asked = Tabs.all.find((tab) => `#${tab.id.slice(4)}` === location.hash);
    if (asked) Tabs.open(asked);
  },
};
