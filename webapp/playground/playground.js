// Gradio draws a group of radio buttons as a fieldset whose title is a span: nothing says to a screen reader what is
// chosen from, and since every button has a name of its own, arrow keys do not lead from one to the next. Each such
// fieldset is named by its title here and its buttons after it, when a part is drawn and whenever it is drawn anew.
(() => {
  let count = 0;
  const name = () => {
    for (const group of document.querySelectorAll("fieldset")) {
      const title = group.querySelector('[data-testid="block-info"]');
      if (!title) continue;
      title.id ||= `group-${++count}`;
      if (group.getAttribute("aria-labelledby") !== title.id) {
        group.setAttribute("role", "radiogroup");
        group.setAttribute("aria-labelledby", title.id);
      }
      for (const button of group.querySelectorAll('input[type="radio"]')) {
        if (button.name !== title.id) button.name = title.id;
      }
    }
  };
  new MutationObserver(name).observe(document.documentElement, {
    childList: true,
    subtree: true,
    attributes: true,
    attributeFilter: ["name"], // which Gradio writes anew when something is chosen
  });
  name();
})();
