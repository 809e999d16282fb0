// Keys go to the terminal without a click on it first, and again after one elsewhere: from when it
// is connected on, since it says to its process that it was given the keys.
"use strict";
const type = () => {
  const state = document.body.classList;
  if (state.contains("-loaded") && !state.contains("-closed"))
    document.querySelector(".xterm-helper-textarea")?.focus();
};
new MutationObserver(type).observe(document.body, {attributeFilter: ["class"]});
window.addEventListener("focus", type);
