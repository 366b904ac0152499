"use strict";
// Light or dark: the system's choice unless the switch says otherwise, which is kept in this browser.
const Theme = {
  apply(name) {
    if (name) document.documentElement.dataset.theme = name;
    else delete document.documentElement.dataset.theme;
  },
  start() {
    const select = document.getElementById("theme");
    select.value = localStorage.getItem("befit.theme") || "";
    Theme.apply(select.value);
    select.addEventListener("change", () => {
      localStorage.setItem("befit.theme", select.value);
      Theme.apply(select.value);
    });
  },
};
Theme.start();
