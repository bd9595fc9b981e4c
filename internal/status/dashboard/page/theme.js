// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// It is no module, so that it runs before anything is drawn: a dark page must not begin with a flash of white.
"use strict";
(() => {
  const choices = ["system", "dark", "light"];
  const system = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  let choice = "system";
  try {
    const kept = localStorage.getItem("weir-theme");
    if (choices.includes(kept)) choice = kept;
  } catch { /* a browser that keeps nothing */ }

  function apply() {
    root.dataset.choice = choice;
    root.dataset.theme = choice === "system" ? (system.matches ? "dark" : "light") : choice;
    document.dispatchEvent(new CustomEvent("theme"));
  }
  system.addEventListener("change", apply);
  document.addEventListener("next-theme", () => {
    choice = choices[(choices.indexOf(choice) + 1) % choices.length];
    try {
      localStorage.setItem("weir-theme", choice);
    } catch { /* then it is forgotten */ }
    apply();
  });
  apply();
})();
