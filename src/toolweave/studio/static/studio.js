// Gradio's folding steps and input box have buttons and fields without a name, which screen readers need.
(() => {
  const chinese = location.pathname.split("/").includes("zh");
  // Gradio has no Chinese for these.
  const words = {
    Retry: "重试", Edit: "改写", Undo: "撤销", Submit: "提交", Cancel: "取消", Like: "赞", Dislike: "踩",
    "Copy message": "复制", "Copied message": "已复制", Clear: "清空", "More tabs": "更多",
  };
  const named = () => {
    for (const button of chinese ? document.querySelectorAll("button[aria-label]") : []) {
      const word = words[button.getAttribute("aria-label")];
      if (word) {
        button.setAttribute("aria-label", word);
        if (button.title) button.title = word;
      }
    }
    for (const title of document.querySelectorAll('#chat [role="button"].title')) {
      const button = title.querySelector("button");
      if (button && button.getAttribute("aria-hidden") !== "true") {
        button.setAttribute("aria-hidden", "true");
        button.setAttribute("tabindex", "-1");
      }
    }
    // A list of buttons is a group: a list would have to hold list items.
    for (const list of document.querySelectorAll('.examples[role="list"]')) list.setAttribute("role", "group");
    // What scrolls can be scrolled by the keyboard.
    for (const text of document.querySelectorAll(".timeline pre, .request pre, .duel pre, .samples pre")) {
      if (text.scrollHeight > text.clientHeight) text.tabIndex = 0;
    }
    const ask = document.querySelector("#ask textarea");
    if (ask && !ask.getAttribute("aria-label")) ask.setAttribute("aria-label", ask.placeholder);
  };
  new MutationObserver(named).observe(document.documentElement, { childList: true, subtree: true });
  document.documentElement.lang = chinese ? "zh-CN" : "en";
  if (localStorage.getItem("toolweave-dark") === "1") {
    document.addEventListener("DOMContentLoaded", () => document.body.classList.add("dark"));
  }
})();
