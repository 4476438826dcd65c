// Cards of the examples: a portrait with a recording each.

const root = element.querySelector(".root");

function show(value) {
  root.replaceChildren(...(value || []).map((example, index) =>
    make("button", { type: "button", class: "example", click: () => trigger("pick", { index }) },
      make("img", { src: example.picture.url, alt: "", width: 56, height: 56 }),
      make("span", {}, make("strong", { text: example.title }), make("span", { text: example.text })))));
}

show(props.value);
watch("value", () => show(props.value));
