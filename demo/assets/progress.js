// Current step of a job, its progress and the estimated time left.

const root = element.querySelector(".root");

function left(seconds) {
  if (seconds == null) return "";
  if (seconds < 2) return "almost done";
  return seconds < 90 ? `about ${Math.ceil(seconds)} s left` : `about ${Math.round(seconds / 60)} min left`;
}

function show(value) {
  const appears = value && root.hidden;
  root.hidden = !value;
  if (!value) { // page.css shows it while the request waits
    root.replaceChildren(make("p", { class: "said", role: "status", text: "Waiting for its turn …" }));
    return;
  }
  const text = [value.steps[value.step], value.done == null ? "" : `${Math.floor(100 * value.done)} %`, left(value.left)].filter(Boolean).join(" · ");
  let list = root.querySelector("ol"), bar = root.querySelector("progress"), said = root.querySelector(".said");
  if (!list) {
    list = make("ol");
    bar = make("progress", { max: 1, "aria-label": "Progress" });
    said = make("p", { class: "said", role: "status" });
    root.replaceChildren(list, bar, said);
  }
  list.replaceChildren(...value.steps.map((name, index) => make("li", {
    class: index < value.step ? "past" : index === value.step ? "now" : "", "aria-current": index === value.step ? "step" : null, text: name,
  })));
  if (value.done == null) bar.removeAttribute("value"); else bar.value = value.done;
  if (said.textContent !== text) said.textContent = text;
  if (appears) root.scrollIntoView({ block: "nearest", behavior: calm ? "auto" : "smooth" });
}

show(props.value);
watch("value", () => show(props.value));
