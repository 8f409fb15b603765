// Gradio's folding steps and input box have buttons and fields without a name, which screen readers need.
(() => {
  const named = () => {
    for (const title of document.querySelectorAll('#chat [role="button"].title')) {
      const button = title.querySelector("button");
      if (button && button.getAttribute("aria-hidden") !== "true") {
        button.setAttribute("aria-hidden", "true");
        button.setAttribute("tabindex", "-1");
      }
    }
    // A list of buttons is a group: a list would have to hold list items.
    for (const list of document.querySelectorAll('.examples[role="list"]')) list.setAttribute("role", "group");
    const ask = document.querySelector("#ask textarea");
    if (ask && !ask.getAttribute("aria-label")) ask.setAttribute("aria-label", ask.placeholder);
  };
  new MutationObserver(named).observe(document.documentElement, { childList: true, subtree: true });
  document.documentElement.lang = location.pathname.split("/").includes("zh") ? "zh-CN" : "en";
  if (localStorage.getItem("toolweave-dark") === "1") {
    document.addEventListener("DOMContentLoaded", () => document.body.classList.add("dark"));
  }
})();
